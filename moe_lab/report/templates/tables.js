(() => {
  "use strict";
  const FILTER_FROM = 8;  // rows; fewer are read without a search
  const number = (text) => { const found = parseFloat(text.replace(/<[^>]*>/g, "").replace(/,/g, "")); return isNaN(found) ? -Infinity : found; };
  const head = (cell) => { const unit = cell.querySelector("small");
    const label = [...cell.childNodes].filter((n) => n !== unit && !n.classList?.contains("dtcc")).map((n) => n.textContent).join("").trim();
    return unit ? `${label} (${unit.textContent})` : label; };

  const cue = (box, says) => {
    const table = box.querySelector("table"), cut = table.offsetWidth > box.clientWidth + 1;
    box.classList.toggle("cut", cut);
    box.classList.toggle("fits", !cut);
    box.classList.toggle("end", box.scrollLeft + box.clientWidth >= table.offsetWidth - 2);
    if (cut) box.tabIndex = 0; else box.removeAttribute("tabindex");  // the keyboard can scroll it
    const right = box.getBoundingClientRect().right;
    const hidden = [...table.tHead.rows[table.tHead.rows.length - 1].cells].filter((c) => c.getBoundingClientRect().right > right + 1).length;
    says.textContent = hidden ? `${hidden} more column${hidden > 1 ? "s" : ""} to the right: scroll sideways →` : "";
  };

  const enhance = (DataTable, table) => {
    const box = table.closest(".scroll"), heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const columns = heads.map((cell) => cell.classList.contains("num")
      ? { type: "num", render: (data, type) => (type === "sort" || type === "type" ? number(data) : data) } : { type: "string" });
    const rows = table.tBodies[0].rows.length;
    const tools = document.createElement("div"), says = document.createElement("span");
    tools.className = "table-tools";
    const titles = heads.map(head);
    const api = new DataTable(table, { columns, paging: false, info: false, order: [], language: { searchBuilder: { button: { 0: "Filter", _: "Filter (%d)" } } }, titleRow: table.tHead.rows.length - 1, autoWidth: false, layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null } });
    if (rows >= FILTER_FROM) {
      const search = document.createElement("input");
      search.type = "search"; search.placeholder = `Search ${rows} rows`; search.setAttribute("aria-label", "Search the rows of this table");
      search.addEventListener("input", () => api.search(search.value).draw());
      tools.append(search);
    }
    const exportOptions = { format: { header: (_, column) => titles[column], body: (data, row, column, node) => node.textContent } };
    const buttons = [{ extend: "copyHtml5", text: "Copy", title: null, exportOptions }, { extend: "csvHtml5", text: "CSV", title: document.title, exportOptions }];
    if (rows >= FILTER_FROM) buttons.unshift({ extend: "searchBuilder", config: { depthLimit: 2 } });
    new DataTable.Buttons(api, { buttons });
    tools.append(api.buttons().container()[0], says);
    box.before(tools);
    const look = () => cue(box, says);
    box.addEventListener("scroll", look, { passive: true });
    new ResizeObserver(look).observe(box);
    look();
  };

  // A box that scrolls sideways would keep a sticky head to itself, so there the head follows the page.
  const follow = () => {
    const top = parseFloat(getComputedStyle(document.documentElement).fontSize) * 2.75;
    for (const box of document.querySelectorAll(".scroll.cut")) {
      const at = box.getBoundingClientRect(), table = box.querySelector("table");
      const most = table.tBodies[0].offsetHeight;
      const by = at.bottom > 0 && at.top < innerHeight ? Math.max(0, Math.min(most, top - table.getBoundingClientRect().top - (table.caption?.offsetHeight || 0))) : 0;
      table.tHead.style.transform = by ? `translateY(${by}px)` : "";
    }
  };
  addEventListener("scroll", follow, { passive: true });

  const later = window.requestIdleCallback || ((run) => setTimeout(run, 1));
  document.addEventListener("DOMContentLoaded", async () => {
    if (!window.moeLabTables) return;
    const { default: DataTable } = await window.moeLabTables;
    const seen = new WeakSet();
    const one = (table) => { if (!seen.has(table)) { seen.add(table); enhance(DataTable, table); } };
    // What is folded is made when it is unfolded: its width is not known before.
    const ready = (within) => [...within.querySelectorAll("table.lab")].filter((t) => t.tBodies[0].rows.length && !t.closest("details:not([open])"));
    const waiting = ready(document);
    const next = () => { if (waiting.length) { one(waiting.shift()); later(next); } };
    later(next);
    document.addEventListener("toggle", (event) => ready(event.target).forEach(one), true);
  });
})();
