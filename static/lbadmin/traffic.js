// Plots of the page "Traffic" of a service, drawn by uPlot from the page's own JSON. Hidden from screen readers, for
// whom the page has tables.
"use strict";

(() => {
  const section = document.querySelector("[data-traffic]");
  if (!section) return;
  const COLOURS = {
    light: ["#1d4ed8", "#b45309", "#047857", "#be185d", "#6d28d9", "#0e7490", "#a16207", "#b91c1c", "#475569"],
    dark: ["#60a5fa", "#fbbf24", "#34d399", "#f472b6", "#a78bfa", "#22d3ee", "#fde047", "#f87171", "#cbd5e1"],
  };
  const plots = new Map();
  let data = null;

  const isDark = () => document.documentElement.classList.contains("dark");
  const colour = (index) => COLOURS[isDark() ? "dark" : "light"][index % COLOURS.light.length];
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function short(number) {
    if (number === null || number === undefined) return "–";
    const units = ["", "k", "M", "G", "T"];
    let unit = 0;
    while (Math.abs(number) >= 1000 && unit < units.length - 1) { number /= 1000; unit += 1; }
    return `${Number(number.toPrecision(3))}${units[unit]}`;
  }

  // In UTC, as every time in the console; where more than a day is shown, with the day.
  function momentOf(seconds) {
    const text = new Date(seconds * 1000).toISOString();
    const long = data.times[data.times.length - 1] - data.times[0] > 90000;
    return long ? `${Number(text.slice(8, 10))}/${Number(text.slice(5, 7))}` : text.slice(11, 16);
  }

  function linesOf(kind) {
    if (kind === "refused") return data.refused.map((one, index) => ({ name: one.name, values: one.refused, index }));
    if (kind !== "fair") return data.backends.map((one, index) => ({ name: one.name, values: one[kind], index }));
    return data.backends.flatMap((one, index) => [
      { name: one.name, values: one.observed, index },
      { name: `${one.name} declared`, values: one.declared, index, dashed: true },
    ]);
  }

  function drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = variable("--lb-muted");
    ctx.fillStyle = variable("--lb-muted");
    ctx.lineWidth = devicePixelRatio;
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "left";
    let free = 0;
    for (const mark of data.marks) {
      const x = Math.round(plot.valToPos(mark.at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const text = `r${mark.revision}`;
      const width = ctx.measureText(text).width;
      const beside = 3 * devicePixelRatio;
      // At the right edge a name stands before its line.
      const left = x + beside + width > bbox.left + bbox.width ? x - beside - width : x + beside;
      if (left < free) continue;
      ctx.fillText(text, left, bbox.top + 11 * devicePixelRatio);
      free = left + width + beside;
    }
    ctx.restore();
  }

  // Where counting began within the time that is shown, the plot begins there, and shows five minutes at least.
  function timesShown() {
    const { times } = data;
    const last = times[times.length - 1];
    const lines = data.backends.map((one) => one.new);
    const first = times.findIndex((at, index) => lines.some((line) => line[index] !== null));
    return [first > 0 ? Math.max(times[0], Math.min(times[first], last - 300)) : times[0], last];
  }

  function makePlot(element, kind) {
    const lines = linesOf(kind);
    const axis = () => ({
      stroke: variable("--lb-muted"),
      grid: { stroke: variable("--lb-line"), width: 1 },
      ticks: { stroke: variable("--lb-line"), width: 1 },
    });
    const series = lines.map((line) => ({
      label: line.name,
      stroke: colour(line.index),
      width: line.dashed ? 1 : 1.5,
      dash: line.dashed ? [4, 4] : undefined,
      points: { show: kind === "fair" && !line.dashed, size: 4 },
      value: (plot, value) => (kind === "fair" && value !== null && value !== undefined ? `${short(value)} %` : short(value)),
    }));
    const options = {
      width: element.clientWidth,
      height: 220,
      // What matters is told in tables; the legend is for the pointer.
      legend: { show: true, live: true },
      scales: { x: { range: timesShown }, y: { range: (plot, least, most) => [0, most > 0 ? most * 1.1 : 1] } },
      axes: [{ ...axis(), values: (plot, values) => values.map(momentOf) }, { ...axis(), size: 52, values: (plot, values) => values.map(short) }],
      series: [{ value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }, ...series],
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      hooks: { draw: [drawMarks] },
    };
    const plot = new uPlot(options, valuesOf(kind, lines), element);
    // The declared line has the colour of its backend, and needs no name of its own.
    const rows = element.querySelectorAll(".u-legend .u-series");
    lines.forEach((line, index) => { rows[index + 1].hidden = Boolean(line.dashed); });
    plots.set(element, { plot, names: lines.map((line) => line.name).join() });
  }

  function valuesOf(kind, lines) {
    return [kind === "fair" ? data.fair_times : data.times, ...lines.map((line) => line.values)];
  }

  function draw(anew) {
    if (!data) return;
    section.querySelectorAll("[data-plot]").forEach((element) => {
      const kind = element.dataset.plot;
      const lines = linesOf(kind);
      const known = plots.get(element);
      if (known && !anew && known.names === lines.map((line) => line.name).join()) {
        known.plot.setData(valuesOf(kind, lines));
        return;
      }
      if (known) known.plot.destroy();
      plots.delete(element);
      if (lines.length) makePlot(element, kind);
    });
  }

  async function load() {
    if (document.hidden && data) return;
    try {
      const answer = await fetch(section.dataset.traffic, { credentials: "same-origin" });
      if (!answer.ok) return;
      data = await answer.json();
      draw(false);
    } catch {
      // The console is not there for a moment; what is drawn stays, and the next time comes.
    }
  }

  new MutationObserver(() => draw(true)).observe(document.documentElement, { attributeFilter: ["class"] });
  new ResizeObserver(() => plots.forEach(({ plot }, element) => {
    plot.setSize({ width: element.clientWidth, height: 220 });
  })).observe(section);
  load();
  setInterval(load, Number(section.dataset.every) * 1000);
})();
