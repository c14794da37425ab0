// The side panel of templates/components/panel.html. Without this script its links open as pages.
(() => {
  "use strict";

  const wide = window.matchMedia("(min-width: 75rem)");
  const find = (selector, root = document) => root.querySelector(selector);
  const panel = () => find("[data-panel]");
  const isOpen = () => Boolean(panel() && !panel().hidden);

  // The address and title of the list behind the panel, and the request in flight. The history entry of the list has the state
  // {panel: ""}, that of an opened row {panel: its address}; without `htmx` in the state, htmx leaves them to this script.
  const here = () => location.href.split("#")[0];
  let list = { address: here(), title: document.title };
  let request = null;

  function load(address, { push }) {
    if (request?.address === address) return;
    const box = panel();
    const body = find("[data-panel-body]", box);
    if (box.hidden) list = { ...list, title: document.title };
    request = { address, push, wasOpen: isOpen() };
    box.setAttribute("aria-busy", "true");
    mark(address);
    inPlace(() => (box.hidden = false));
    window.htmx.ajax("GET", address, { source: body, target: body, swap: "innerHTML show:none" }).catch(() => {});
  }

  function loaded(successful) {
    const { address, push, wasOpen } = request;
    request = null;
    panel().removeAttribute("aria-busy");
    if (!successful) return wasOpen ? mark(location.href) : hide();
    if (push && wasOpen && history.state?.panel) history.replaceState({ panel: address }, "", address);
    else if (push) {
      history.replaceState({ panel: "" }, "");
      history.pushState({ panel: address }, "", address);
    }
    find("[data-panel-page]").href = address;
    const body = find("[data-panel-body]");
    body.scrollTop = 0;
    (find("[autofocus], h1, h2", body) ?? panel()).focus({ preventScroll: true });
  }

  function hide() {
    const box = panel();
    const link = find('[data-panel-link][aria-current="true"]');
    const inside = box.contains(document.activeElement) || document.activeElement === document.body;
    inPlace(() => (box.hidden = true));
    find("[data-panel-body]", box).replaceChildren();
    document.title = list.title;
    mark(null);
    if (inside) link?.focus({ preventScroll: true });
  }

  // What still loads when the panel is closed must not push its address any more.
  function cancel() {
    if (!request) return;
    request = null;
    panel().removeAttribute("aria-busy");
    window.htmx.trigger(find("[data-panel-body]"), "htmx:abort");
  }

  function close() {
    cancel();
    if (history.state?.panel) history.back();
    else hide();
  }

  // The page gets narrower or wider: the marked row stays where it is on the screen.
  function inPlace(change) {
    const link = find('[data-panel-link][aria-current="true"]');
    const before = link?.getBoundingClientRect().top;
    change();
    if (link) window.scrollBy({ top: link.getBoundingClientRect().top - before, behavior: "instant" });
  }

  // Rows that are polled or appended meanwhile are marked again.
  function mark(address) {
    for (const link of document.querySelectorAll("[data-panel-link]")) {
      if (link.href === address && !panel().contains(link)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }

  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !panel()) return;
    if (event.target.closest("[data-panel-close]")) return close();
    const link = event.target.closest("a[data-panel-link]");
    const modified = event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;
    if (!link || modified || event.defaultPrevented || !wide.matches || !window.htmx) return;
    event.preventDefault();
    load(link.href, { push: true });
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || !isOpen()) return;
    if (event.target instanceof Element && event.target.closest("input, select, textarea, dialog, details[open]")) return;
    if (!find("dialog[open], :popover-open")) close();
  });

  document.addEventListener("htmx:afterRequest", (event) => {
    const ours = event.target.matches?.("[data-panel-body]") && event.detail.pathInfo.requestPath === request?.address;
    if (ours) loaded(event.detail.successful);
  });
  document.addEventListener("htmx:afterSettle", () => isOpen() && mark(request?.address ?? location.href));

  // The list has another address, after a filter: what is open belongs to the one before.
  for (const type of ["htmx:pushedIntoHistory", "htmx:replacedInHistory"]) {
    document.addEventListener(type, () => {
      if (isOpen()) hide();
      list = { address: here(), title: document.title };
    });
  }

  // Back and forward. A document that shows something else, such as the page of a row after reloading, is loaded again.
  window.addEventListener("popstate", (event) => {
    const address = event.state?.panel;
    if (address === undefined) return;
    if (!panel() || (address && !wide.matches) || (!address && here() !== list.address)) location.reload();
    else if (address) load(address, { push: false });
    else if (isOpen()) hide();
  });

  wide.addEventListener("change", () => !wide.matches && isOpen() && location.reload());
})();
