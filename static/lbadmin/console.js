// The rows of backends in the form of a service, ticks in the list of services, and the controls that fit what is
// chosen in another one. Without it the last two work too, only less comfortably.
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
  section.closest("form").querySelectorAll("[data-chooses]").forEach(showFittingControls);
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

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("[data-several]").forEach(prepareTicks);
  document.querySelectorAll("[data-counts]").forEach(countLines);
  document.querySelectorAll("[data-chooses]").forEach(showFittingControls);
});

// A browser that goes back to a page fills in what was chosen there without a word.
window.addEventListener("pageshow", () => document.querySelectorAll("[data-chooses]").forEach(showFittingControls));

document.addEventListener("change", (event) => {
  const several = event.target.form?.closest("[data-several]");
  if (several) countTicks(several, event.target);
  if (event.target.matches("[data-chooses]")) showFittingControls(event.target);
});

// How many lines of a list are filled in.
document.addEventListener("input", (event) => {
  if (event.target.matches("[data-counts]")) countLines(event.target);
});

function countLines(area) {
  const lines = area.value.split("\n").filter((line) => line.trim()).length;
  const place = document.querySelector(`[data-count-of="${area.id}"]`);
  place.hidden = lines === 0;
  place.textContent = `${lines.toLocaleString("en")} ${lines === 1 ? area.dataset.counts.replace(/s$/, "") : area.dataset.counts}`;
}

function ticksOf(several) {
  return [...several.elements].filter((element) => element.name === "id");
}

function prepareTicks(several) {
  several.querySelector("[data-choose-all]").parentElement.hidden = false;
  countTicks(several);
}

function countTicks(several, changed) {
  const all = several.querySelector("[data-choose-all]");
  const ticks = ticksOf(several);
  if (changed === all) ticks.forEach((tick) => { tick.checked = all.checked; });
  const chosen = ticks.filter((tick) => tick.checked).length;
  all.checked = chosen > 0 && chosen === ticks.length;
  several.querySelector("[data-chosen]").textContent = chosen ? `(${chosen})` : "";
}

// What does not apply is hidden and not sent, so that it takes its default; what is marked as wrong stays in sight.
function showFittingControls(select) {
  select.form.querySelectorAll(`[data-chosen-by="${select.dataset.chooses}"]`).forEach((control) => {
    const wrong = control.matches(".lb-errors-in") || control.querySelector(".lb-errors-in, .lb-field__errors");
    control.hidden = !wrong && !control.dataset.valueOf.split(" ").includes(select.value);
    control.querySelectorAll("input, select, textarea").forEach((input) => {
      input.disabled = input.closest("[data-chosen-by][hidden]") !== null;
    });
  });
}

// The end of a rehearsal loads the page anew, but not from under somebody who has just begun to write: the
// next poll takes the text along, and the server answers with a sentence instead.
document.addEventListener("htmx:beforeOnLoad", (event) => {
  const typed = [...document.querySelectorAll("#reason, #comment")].some((field) => field.value);
  if (event.target.id === "rehearsal" && typed && event.detail.xhr.getResponseHeader("HX-Refresh")) {
    event.preventDefault();
  }
});

// Nor does it take back somebody who is just leaving: a page that loads itself anew gives up where it was going.
let leftAt = -Infinity;
window.addEventListener("beforeunload", () => { leftAt = performance.now(); });
document.addEventListener("htmx:beforeOnLoad", (event) => {
  if (performance.now() - leftAt < 10_000) event.preventDefault();
});
