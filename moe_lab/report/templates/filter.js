(() => {
  "use strict";
  // One filter for the whole page: traces and table rows of the backends, formats and tokens that are not chosen are hidden.
  const KINDS = { backend: ["backend", "series"], format: ["format"], M: ["M"] }, NAMES = { backend: "Backends", format: "Formats", M: "Tokens (M)" };
  const menu = document.querySelector(".menu.filter"), off = { backend: new Set(), format: new Set(), M: new Set() };
  const heads = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells].map((cell) => cell.dataset.key);
  const tables = [...document.querySelectorAll("main table.lab")].filter((t) => !t.closest(".findings"));
  const cellsOf = (table, kind) => KINDS[kind].map((key) => heads(table).indexOf(key)).filter((at) => at >= 0);
  const metas = [...document.querySelectorAll(".plot-data")].flatMap((of) => JSON.parse(of.textContent).data.map((trace) => trace.meta || {}));
  const found = (kind) => {
    const values = tables.flatMap((t) => cellsOf(t, kind).flatMap((at) => [...t.tBodies[0].rows].map((row) => row.cells[at].textContent)));
    const said = [...new Set([...metas.map((meta) => meta[kind]), ...values].filter((v) => v && v !== "–"))];
    return kind === "M" ? said.sort((a, b) => a.replace(/,/g, "") - b.replace(/,/g, "")) : said;
  };
  const traces = (area) => {
    const shown = area.data.map((trace) => Object.keys(off).every((kind) => !off[kind].has(trace.meta?.[kind])));
    const keep = (values, ms) => values.map((v, i) => (ms[i] !== undefined && off.M.has(Number(ms[i]).toLocaleString("en")) ? null : v));
    area.dataset.given ??= JSON.stringify(area.data.map((t) => (t.meta?.x === "M" ? { x: t.x, y: t.y } : null)));
    const given = JSON.parse(area.dataset.given);
    const over = given.map((t, i) => (t ? i : -1)).filter((i) => i >= 0);
    if (over.length) Plotly.restyle(area, { y: over.map((i) => keep(given[i].y, given[i].x)) }, over);
    const own = area.data.map((t, i) => (t.meta ? i : -1)).filter((i) => i >= 0);
    if (own.length) Plotly.restyle(area, { visible: own.map((i) => shown[i]) }, own);
  };
  const apply = () => {
    for (const table of tables) {
      for (const row of table.tBodies[0].rows) {
        row.hidden = Object.keys(off).some((kind) => cellsOf(table, kind).some((at) => off[kind].has(row.cells[at].textContent)));
      }
    }
    document.querySelectorAll(".plot-area.js-plotly-plot").forEach(traces);
    menu.classList.toggle("on", Object.values(off).some((set) => set.size));
  };
  const box = (kind, value) => {
    const label = document.createElement("label"), input = document.createElement("input");
    input.type = "checkbox"; input.checked = true;
    input.addEventListener("change", () => { off[kind][input.checked ? "delete" : "add"](value); apply(); });
    label.append(input, " " + value);
    return label;
  };
  const choices = menu.querySelector(".choices");
  for (const kind of Object.keys(off)) {
    const values = found(kind);
    if (values.length < 2 || values.length > 40) continue;
    const set = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = NAMES[kind];
    set.append(legend, ...values.map((value) => box(kind, value)));
    choices.append(set);
  }
  menu.hidden = !choices.children.length;
  document.addEventListener("drawn", (event) => { if (menu.classList.contains("on")) traces(event.target); });
})();
