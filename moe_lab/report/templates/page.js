(() => {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("code");
  button.addEventListener("click", () => {
    const shown = root.classList.toggle("code");
    button.setAttribute("aria-pressed", String(shown));
    button.textContent = shown ? "Hide code" : "Show code";
  });
  if (!window.Plotly) return;

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
  const plots = [...document.querySelectorAll("figure.plot")].map((figure) => {
    const spec = JSON.parse(figure.querySelector(".plot-data").textContent);
    const area = figure.querySelector(".plot-area");
    Plotly.newPlot(area, spec.data, apply(spec.layout), { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover",
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] });
    return area;
  });
  const restyle = () => plots.forEach((area) => Plotly.relayout(area, theme(area.layout)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  matchMedia("(max-width: 599px)").addEventListener("change", restyle);
})();
