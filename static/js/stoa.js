// Copy buttons, menus, toasts and dialogs. Every page works without this script.
(() => {
  "use strict";

  const listen = (type, handler, options) => document.addEventListener(type, handler, options);
  const hit = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);

  // Copy buttons copy the nearest <code>.
  async function copy(button) {
    const code = button.closest(".command, .code, [data-copy-scope]")?.querySelector("code");
    if (!code) return;
    const text = code.textContent.replace(/\n$/, "");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // The clipboard API requires https or localhost: select the text and use execCommand instead.
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      if (!document.execCommand("copy")) return;
    }
    const label = button.querySelector("[data-copy-word]");
    button.classList.add("is-done");
    if (label) label.textContent = "Copied";
    announce("Copied");
    setTimeout(() => {
      button.classList.remove("is-done");
      if (label) label.textContent = "Copy";
    }, 2000);
  }

  // The store searches while the user types. The change event on blur would repeat the search and replace the element
  // being clicked.
  listen("change", (event) => hit(event, "#search") && event.stopPropagation(), true);

  // On narrow screens the filters cover the results: close them on submit.
  listen("submit", (event) => hit(event, "#find") && document.querySelector("#filters:popover-open")?.hidePopover());

  // Announce a message to screen readers: the toast region is a live region.
  function announce(text) {
    const note = document.createElement("span");
    note.className = "visually-hidden";
    note.textContent = text;
    document.getElementById("toasts")?.append(note);
    setTimeout(() => note.remove(), 2000);
  }

  // Toasts disappear after six seconds unless hovered or focused; errors stay.
  function scheduleRemoval(toast) {
    if (toast.dataset.toast === "bad" || toast.dataset.scheduled) return;
    toast.dataset.scheduled = "1";
    const remove = () => {
      if (toast.matches(":hover, :focus-within")) setTimeout(remove, 1500);
      else toast.remove();
    };
    setTimeout(remove, 6000);
  }
  const scheduleRemovals = () => document.querySelectorAll("#toasts [data-toast]").forEach(scheduleRemoval);

  function toast(text) {
    const region = document.getElementById("toasts");
    if (!region) return;
    const box = document.createElement("div");
    box.className = "toast toast--bad";
    box.setAttribute("role", "alert");
    box.dataset.toast = "bad";
    const message = document.createElement("div");
    message.textContent = text;
    const close = document.createElement("button");
    close.className = "close";
    close.type = "button";
    close.dataset.close = "";
    close.setAttribute("aria-label", "Close");
    close.textContent = "×";
    box.append(document.createElement("span"), message, close);
    region.append(box);
  }

  // Open dialogs swapped into #dialog as modals; remove them when closed.
  function openDialogs() {
    document.querySelectorAll("dialog[data-modal]:not([open])").forEach((dialog) => {
      dialog.addEventListener("close", () => dialog.remove(), { once: true });
      dialog.showModal();
    });
  }

  listen("click", (event) => {
    const button = hit(event, "[data-copy]");
    if (button) copy(button);
    hit(event, "[data-close]")?.closest("[data-toast]")?.remove();
    const dismiss = hit(event, "dialog [data-dismiss]");
    if (dismiss) {
      event.preventDefault();
      dismiss.closest("dialog").close();
    }
    if (event.target instanceof HTMLDialogElement && event.target.matches("[data-modal]")) event.target.close();
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
  });

  listen("keydown", (event) => {
    if (event.key !== "Escape") return;
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      menu.open = false;
      menu.querySelector("summary")?.focus();
    });
  });

  // A strip of tabs that scrolls begins at the current one.
  for (const tab of document.querySelectorAll(".tabs [aria-current]")) {
    const strip = tab.closest("ul");
    const hidden = tab.getBoundingClientRect().right - strip.getBoundingClientRect().right + 40;
    if (strip.scrollWidth > strip.clientWidth && hidden > 0) strip.scrollLeft += hidden;
  }

  // Controls that submit their form on change; without JavaScript the form has a button.
  listen("change", (event) => {
    const control = hit(event, "[data-submit-on-change]");
    control?.form?.requestSubmit();
  });

  // A form that changes something ignores further submits until its response arrives, and so does the button that sent it,
  // which shows that it waits (`aria-busy`). The server answers a repetition with the response of the first.
  const waiting = new Map();

  const posts = (form) => form instanceof HTMLFormElement && form.getAttribute("method")?.toLowerCase() === "post";

  const tokenOf = (form) => form.elements.namedItem("form_token");
  const place = (form) => `form ${location.pathname}${location.search} ${form.getAttribute("action")}`;

  // After "back" a form keeps its token, so that sending the same again shows the first result.
  if (performance.getEntriesByType("navigation")[0]?.type === "back_forward") {
    for (const form of [...document.forms].filter(posts)) {
      const kept = sessionStorage.getItem(place(form));
      if (kept && tokenOf(form)) tokenOf(form).value = kept;
    }
  }

  function lock(form, button) {
    unlock(form);
    // A navigation that was stopped sends no event.
    const timer = setTimeout(() => unlock(form), 15000);
    for (const each of [form, button]) each?.setAttribute("aria-busy", "true");
    waiting.set(form, { button, timer });
    sessionStorage.setItem(place(form), tokenOf(form)?.value ?? "");
  }

  function unlock(form) {
    const entry = waiting.get(form);
    if (!entry) return;
    clearTimeout(entry.timer);
    for (const each of [form, entry.button]) each?.removeAttribute("aria-busy");
    waiting.delete(form);
  }

  listen(
    "submit",
    (event) => {
      if (!waiting.has(event.target)) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    true,
  );

  listen("submit", (event) => {
    if (event.defaultPrevented || !posts(event.target) || event.submitter?.formMethod === "get") return;
    lock(event.target, event.submitter);
  });

  listen("htmx:beforeRequest", (event) => {
    const { elt, requestConfig } = event.detail;
    if (posts(elt)) lock(elt, requestConfig.triggeringEvent?.submitter);
  });

  listen("htmx:afterRequest", (event) => {
    const { elt, successful, xhr } = event.detail;
    if (!posts(elt) || xhr.getResponseHeader("HX-Redirect")) return;
    unlock(elt);
    const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("-");
    if (successful && tokenOf(elt)) tokenOf(elt).value = random();
  });

  window.addEventListener("pageshow", (event) => {
    if (event.persisted) [...waiting.keys()].forEach(unlock);
  });

  // Typing into a field selects the radio button it belongs to.
  listen("input", (event) => {
    const radio = document.getElementById(hit(event, "[data-selects]")?.dataset.selects);
    if (radio) radio.checked = true;
  });

  // htmx: swapped content and network errors.
  listen("htmx:afterSettle", () => {
    scheduleRemovals();
    openDialogs();
  });
  listen("htmx:oobAfterSwap", scheduleRemovals);
  listen("htmx:afterRequest", scheduleRemovals);

  // Enter in the field of a search is a change and a submission. The second of two equal searches is not sent: its answer would
  // take the focus from what was reached meanwhile. An address that is shown already is no step of the history.
  const searches = new WeakMap();
  listen("htmx:beforeRequest", (event) => {
    const { elt, pathInfo, requestConfig } = event.detail;
    if (requestConfig.verb !== "get" || !elt.matches("form[role=search]")) return;
    const last = searches.get(elt);
    if (last?.path === pathInfo.finalRequestPath && performance.now() - last.ended < 100) event.preventDefault();
    else searches.set(elt, { path: pathInfo.finalRequestPath, ended: -Infinity });
  });
  listen("htmx:afterRequest", (event) => {
    const last = searches.get(event.detail.elt);
    if (last) last.ended = performance.now();
  });
  listen("htmx:beforeHistoryUpdate", (event) => {
    const { history } = event.detail;
    if (history.type === "push" && new URL(history.path, location.href).href === location.href) history.type = "replace";
  });
  listen("htmx:sendError", () => toast("The server did not respond. Try again."));
  listen("htmx:timeout", () => toast("The server took too long. Try again."));

  // Pages show times in the time zone of the browser, unless the user chose another.
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.split("; ").includes(`stoa-zone=${zone}`)) {
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `stoa-zone=${zone}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;
  }

  scheduleRemovals();
  openDialogs();
})();
