// A click on a line of the source marks its instructions and brings the first of them into view, and the other way round.
(function () {
  const all = (key) => document.querySelectorAll(`[data-at="${key}"]`);
  const show = (element) => {
    for (let box = element.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    element.scrollIntoView({ block: "center", behavior: "smooth" });
  };
  const choose = (key, side) => {
    document.querySelectorAll(".chosen").forEach((one) => one.classList.remove("chosen"));
    all(key).forEach((one) => one.classList.add("chosen"));
    const others = [...all(key)].filter((one) => one.closest("section").className === side);
    // Code that is already open first: usually the inner loop.
    const first = others.find((one) => one.closest("details").open) || others[0];
    if (first) show(first);
  };
  const act = (event) => {
    const line = event.target.closest(".line[data-at]");
    if (line) return choose(line.dataset.at, "code");
    const head = event.target.closest(".group > p[tabindex]");
    if (head) choose(head.parentElement.dataset.at, "source");
  };
  document.addEventListener("click", act);
  document.addEventListener("keydown", (event) => { if (event.key === "Enter") act(event); });
  const jump = () => { const to = document.getElementById(location.hash.slice(1)); if (to) show(to); };
  window.addEventListener("hashchange", jump);
  jump();
  const hot = document.querySelector(".source .hot"), pane = document.querySelector(".source");
  if (hot && pane) pane.scrollTop = hot.offsetTop - pane.offsetTop - 60;
})();
