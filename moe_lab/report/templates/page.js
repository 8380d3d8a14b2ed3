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
  // Lines, markers and, on dark paper, bars keep their hue but move away from the paper until the contrast is 3 to 1.
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const light = (hex) => { const [r, g, b] = parts(hex).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05; };
  const apart = (hex) => {
    const paper = light(scheme.matches ? "#14171c" : "#fdfdfc"), to = scheme.matches ? 255 : 0;
    for (let share = 0; share <= 0.7; share += 0.1) {
      const mixed = "#" + parts(hex).map((v) => Math.round(v + share * (to - v)).toString(16).padStart(2, "0")).join("");
      if (Math.max(light(mixed), paper) / Math.min(light(mixed), paper) >= 3) return mixed;
    }
    return hex;
  };
  const recoloured = (of) => JSON.parse(JSON.stringify(of).replace(/#[0-9a-f]{6}\b/gi, apart));
  const read = (figure) => {
    const { data, layout } = JSON.parse(figure.querySelector(".plot-data").textContent);
    if (layout.annotations) layout.annotations = recoloured(layout.annotations);
    // Pale bars let the paper through, so their text has the colour of text on paper.
    for (const trace of data) if (trace.marker?.opacity < 1) trace.insidetextfont = { color: color("--ink") };
    // Tints of a heat map are pale on light paper and deep on dark paper.
    for (const trace of data) if (scheme.matches && trace.meta?.dark) Object.assign(trace, { colorscale: trace.meta.dark, textfont: { color: color("--ink") } });
    const kept = (trace) => trace.type === "heatmap" || (trace.type !== "scatter" && !scheme.matches);
    return { data: data.map((trace) => (kept(trace) ? trace : recoloured(trace))), layout: apply(layout) };
  };
  const drawn = [];
  const draw = (figure) => {
    const spec = read(figure);
    const area = figure.querySelector(".plot-area");
    Plotly.newPlot(area, spec.data, spec.layout, { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] });
    drawn.push(figure);
    area.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
  };
  const restyle = () => drawn.forEach((figure) => {
    const { data, layout } = read(figure), area = figure.querySelector(".plot-area");
    Plotly.react(area, data, layout);
    area.dispatchEvent(new CustomEvent("drawn", { bubbles: true }));
  });
  scheme.addEventListener("change", restyle);
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
