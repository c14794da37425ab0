// The inbox: j and k move from row to row, Enter opens the one that has the focus. The links work without it.
(() => {
  "use strict";

  const inbox = document.querySelector("[data-inbox]");
  const rows = [...(inbox?.querySelectorAll("a[data-row]") ?? [])];
  if (!rows.length) return;

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (!(event.target instanceof Element) || event.target.closest("input, textarea, select, dialog")) return;
    const here = event.target.closest("tr")?.querySelector("a[data-row]") ?? null;
    const index = rows.indexOf(here);
    if (event.key === "j") (rows[index + 1] ?? here)?.focus();
    else if (event.key === "k") rows[index < 0 ? rows.length - 1 : Math.max(index - 1, 0)].focus();
    else return;
    event.preventDefault();
  });
  for (const each of inbox.querySelectorAll("[data-keys]")) each.hidden = false;
})();
