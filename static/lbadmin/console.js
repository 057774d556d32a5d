// The rows of backends in the form of a service. The rest of the console needs no script of its own.
"use strict";

document.addEventListener("click", (event) => {
  const add = event.target.closest("[data-add-row]");
  const remove = event.target.closest("[data-remove-row]");
  if (add) addRow(add.closest("[data-formset]"));
  if (remove) removeRow(remove.closest("[data-row]"));
});

function addRow(section) {
  const total = section.querySelector("input[name$='-TOTAL_FORMS']");
  const html = section.querySelector("[data-empty-row]").innerHTML.replaceAll("__prefix__", total.value);
  section.querySelector("[data-rows]").insertAdjacentHTML("beforeend", html);
  total.value = Number(total.value) + 1;
  section.querySelector("[data-row]:last-child input").focus();
}

// The row stays in the form and says that it is to be left out: numbers of other rows do not move.
function removeRow(row) {
  const section = row.closest("[data-formset]");
  row.querySelector("[data-delete]").value = "on";
  row.hidden = true;
  row.dispatchEvent(new Event("rows-changed", { bubbles: true }));
  section.querySelector("[data-add-row]").focus();
}
