(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("code");
  button.addEventListener("click", () => {
    const shown = root.classList.toggle("code");
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? "Hide code" : "Show code";
  });
  for (const copy of document.querySelectorAll("button.copy")) {
    copy.addEventListener("click", () => navigator.clipboard.writeText(copy.previousElementSibling.textContent)
      .then(() => { copy.textContent = "Copied"; }));
  }
  // Menus close when the reader goes on: a click elsewhere, on a link in them, or Escape.
  const menus = [...document.querySelectorAll(".menu")];
  document.addEventListener("click", (event) => menus
    .filter((menu) => !menu.contains(event.target) || event.target.closest("a"))
    .forEach((menu) => { menu.open = false; }));
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") menus.forEach((menu) => { menu.open = false; }); });

  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const narrow = () => window.innerWidth < 600;
  const theme = (layout) => {
    const changes = { "font.color": color("--soft"), "font.size": narrow() ? 11 : 13, "hoverlabel.bgcolor": color("--panel"),
      "hoverlabel.font.color": color("--ink"), "hoverlabel.bordercolor": color("--line") };
    for (const axis of Object.keys(layout).filter((k) => /^[xy]axis\d*$/.test(k))) {
      changes[axis + ".gridcolor"] = color("--grid");
      changes[axis + ".linecolor"] = color("--line");
      if (narrow()) changes[axis + ".nticks"] = 6;
    }
    return changes;
  };
  const apply = (layout) => {
    for (const [path, value] of Object.entries(theme(layout))) {
      const keys = path.split("."), last = keys.pop();
      keys.reduce((at, key) => (at[key] ??= {}), layout)[last] = value;
    }
    return layout;
  };
  const drawn = [];
  const draw = (figure) => {
    const spec = JSON.parse(figure.querySelector(".plot-data").textContent);
    const area = figure.querySelector(".plot-area");
    Plotly.newPlot(area, spec.data, apply(spec.layout), { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] });
    drawn.push(area);
    area.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
  };
  const restyle = () => drawn.forEach((area) => Plotly.relayout(area, theme(area.layout)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  matchMedia("(max-width: 599px)").addEventListener("change", restyle);

  // What is in view is drawn at once, the rest when the browser has time, all before it prints.
  const later = window.requestIdleCallback || ((run) => setTimeout(run, 1));
  document.addEventListener("DOMContentLoaded", () => {
    if (!window.Plotly) return;
    const waiting = [...document.querySelectorAll("figure.plot")];
    const next = () => { if (waiting.length) { draw(waiting.shift()); later(next); } };
    while (waiting.length && waiting[0].getBoundingClientRect().top < innerHeight) draw(waiting.shift());
    later(next);
    addEventListener("beforeprint", () => { while (waiting.length) draw(waiting.shift()); });
  });
  addEventListener("beforeprint", () => { for (const all of document.querySelectorAll("details.every, .runs details")) all.open = true; });
})();
