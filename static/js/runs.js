// Folds rows of a trace below their parent. Folded rows stay folded when the trace is polled. Without this script all are shown.
(() => {
  "use strict";

  const folded = new Set();
  const keyOf = (row) => row.dataset.foldKey;

  function apply() {
    for (const body of document.querySelectorAll(".trace tbody")) {
      let hiddenBelow = Infinity;
      for (const row of body.rows) {
        const depth = Number(row.dataset.fold);
        const hidden = depth > hiddenBelow;
        if (!hidden) hiddenBelow = folded.has(keyOf(row)) ? depth : Infinity;
        row.hidden = hidden;
        const button = row.querySelector("[data-fold-button]");
        if (!button) continue;
        button.hidden = false;
        button.setAttribute("aria-expanded", String(!folded.has(keyOf(row))));
      }
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-fold-button]") : null;
    if (!button) return;
    const key = keyOf(button.closest("tr"));
    if (!folded.delete(key)) folded.add(key);
    apply();
  });
  document.addEventListener("htmx:afterSettle", apply);
  apply();
})();
