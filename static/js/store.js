// The keyboard in the store: "/" goes to the search, arrow keys walk the agents, "Load more" moves on to the first new one.
// Every page works without this script; focus only ever moves to links and fields that Tab reaches as well.
(() => {
  "use strict";

  const { searchAddress } = document.currentScript.dataset;
  const search = () => document.getElementById("search");
  const links = () => [...document.querySelectorAll(".agents .agent-card h3 a")];
  const more = () => document.querySelector("#results [data-load-more] a");
  const types = (target) => target.closest("input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable], dialog");

  const top = (link) => link.closest(".agent-card").getBoundingClientRect().top;

  // Where a key leads from a card, as in the grid: rows above each other, cards beside each other.
  function next(key, all, index) {
    if (key === "ArrowRight") return all[index + 1];
    if (key === "ArrowLeft") return all[index - 1];
    const list = all[index].closest(".agents");
    const row = all.filter((link) => list.contains(link));
    const columns = row.filter((link) => top(link) === top(row[0])).length;
    if (key === "ArrowDown") return all[index + columns] ?? more() ?? all.at(-1);
    return all[index - columns] ?? search();
  }

  function walk(event) {
    const all = links();
    const index = all.indexOf(event.target);
    if (event.target === search()) return event.key === "ArrowDown" ? all[0] : undefined;
    if (event.target === more()) return event.key === "ArrowUp" ? all.at(-1) : undefined;
    return index < 0 ? undefined : next(event.key, all, index);
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (!(event.target instanceof Element)) return;
    if (event.key === "/" && !types(event.target)) {
      event.preventDefault();
      if (search()) search().select();
      else location.assign(searchAddress);
    } else if (event.key.startsWith("Arrow") && !event.shiftKey) {
      const target = walk(event);
      if (!target) return;
      event.preventDefault();
      target.focus();
    }
  });

  // The response replaces the link that has the focus.
  let shown = null;
  document.addEventListener("htmx:beforeSwap", ({ detail: { target } }) => {
    shown = target.matches("[data-load-more]") && target.contains(document.activeElement) ? links().length : null;
  });
  document.addEventListener("htmx:afterSettle", () => {
    const first = shown === null ? null : links()[shown];
    if (!first) return;
    first.focus({ preventScroll: true });
    shown = null;
  });
})();
