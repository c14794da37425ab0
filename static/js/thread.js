// Shows the answer of a thread as it is written, with events of the server. Without this script the page loads itself again.
(() => {
  "use strict";

  const find = (selector, root = document) => root.querySelector(selector);
  const listen = (type, handler, options) => document.addEventListener(type, handler, options);
  const hit = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);
  const thread = () => find("[data-thread]");
  const touch = window.matchMedia("(pointer: coarse)");
  let source = null;

  // What scrolls: the page, or the pane that the thread is in.
  const scroller = () => thread()?.closest("[data-scrolls]") ?? document.documentElement;

  function toEnd() {
    const root = scroller();
    root.scrollTo({ top: root.scrollHeight, behavior: "instant" });
  }

  // Who reads the end goes on to do so; who has scrolled up stays there.
  function follow(change) {
    const root = scroller();
    const atEnd = root.scrollHeight - root.scrollTop - root.clientHeight < 120;
    change();
    if (atEnd) toEnd();
  }

  function parsed(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  }

  const onEvent = {
    put({ html, new: onlyNew }) {
      const fresh = parsed(html).firstElementChild;
      const old = document.getElementById(fresh.id);
      if (old && onlyNew) return;
      if (old) old.replaceWith(fresh);
      else find("#messages").append(fresh);
      window.htmx?.process(fresh);
    },
    blocks({ id, final, tail }) {
      const end = find("[data-tail]", document.getElementById(`m-${id}`));
      end.before(parsed(final));
      end.replaceChildren(parsed(tail));
    },
    grow({ id, text }) {
      find("[data-tail] code", document.getElementById(`m-${id}`)).append(text);
    },
    thinking({ id, text }) {
      const fold = find("[data-thinking]", document.getElementById(`m-${id}`));
      fold.hidden = false;
      find("p", fold).append(text);
    },
    end({ state, next, turn }) {
      source.close();
      source = null;
      // begun, and never written
      for (const each of document.querySelectorAll('#messages > [aria-busy="true"]')) each.remove();
      announce({ completed: "Answer finished", failed: "No answer", cancelled: "Stopped" }[state] ?? "The answer ended");
      find('#stop [name="turn"]').value = turn ?? "";
      setBusy(Boolean(next));
      if (next) connect(next);
    },
  };

  function connect(address) {
    source?.close();
    source = new EventSource(address);
    for (const [name, handler] of Object.entries(onEvent)) {
      source.addEventListener(name, (event) => follow(() => handler(JSON.parse(event.data))));
    }
    source.onerror = () => {
      // the browser connects again by itself, unless the server refused
      if (source?.readyState === EventSource.CLOSED) setTimeout(() => thread()?.dataset.events && location.reload(), 5000);
    };
  }

  function announce(text) {
    find("[data-announce]").textContent = text;
  }

  function setBusy(busy) {
    const root = thread();
    root.toggleAttribute("data-busy", busy);
    if (!busy) delete root.dataset.events;
    const stop = find("[data-stop]");
    if (!stop) return;
    const interrupt = find("[data-interrupt]");
    if (!busy && [stop, interrupt].includes(document.activeElement)) find("#content").focus({ preventScroll: true });
    stop.hidden = interrupt.hidden = !busy;
    find("[data-send-word]").textContent = busy ? "Queue" : "Send";
  }

  function begin() {
    for (const each of document.querySelectorAll("[data-keys]")) each.hidden = false;
    const address = thread()?.dataset.events;
    if (address && source?.url === new URL(address, location.href).href) return;
    source?.close();
    source = null;
    if (address) connect(address);
  }

  // What is being written goes on in the new page of the same thread, which may be a moment older.
  let before = null;
  listen("htmx:beforeSwap", (event) => event.detail.target.id === "thread" && (before = find("#messages")));
  listen("htmx:afterSwap", (event) => {
    if (event.target.id !== "thread" || !before) return;
    const fresh = find('#messages > [aria-busy="true"]');
    const written = fresh && source && find(`#${CSS.escape(fresh.id)}`, before);
    if (written) fresh.replaceWith(written);
    before = null;
  });

  // What is sent is seen at once, and comes back into the field if it could not be sent.
  let pending = null;
  listen("htmx:beforeRequest", (event) => {
    const { elt } = event.detail;
    if (!elt.matches?.("[data-prompt]")) return;
    const field = elt.elements.namedItem("content");
    const text = field.value.trim();
    if (!text) return;
    const bubble = parsed('<article class="msg msg--user msg--pending"><p class="msg__said"></p></article>').firstElementChild;
    find("p", bubble).textContent = text;
    find("#messages").append(bubble);
    pending = { bubble, text };
    field.value = "";
    toEnd();
  });
  listen("htmx:afterRequest", (event) => {
    if (!pending || !event.detail.elt.matches?.("[data-prompt]")) return;
    const { bubble, text } = pending;
    pending = null;
    if (event.detail.successful || event.detail.xhr.status === 422) return;
    bubble.remove();
    find("#content").value = text;
  });
  listen("htmx:afterSettle", (event) => {
    if (event.target.id !== "thread") return;
    begin();
    if (/\/(messages|answers)$/.test(event.detail.pathInfo.requestPath)) {
      toEnd();
      if (!touch.matches) (find('#prompt [aria-invalid="true"]') ?? find("#content"))?.focus({ preventScroll: true });
    }
  });

  // Forms of messages take what is chosen in the composer: the model, the assistant and its variables.
  listen(
    "submit",
    (event) => {
      const form = event.target;
      if (!form.matches("[data-carries]")) return;
      for (const name of form.dataset.carries.split(" ")) {
        const [own, chosen] = [form.elements.namedItem(name), document.getElementById(name)];
        if (own && chosen?.value) own.value = chosen.value;
      }
      for (const old of form.querySelectorAll("[data-carried]")) old.remove();
      for (const { name, value } of document.querySelectorAll("#variables [name]")) {
        const copy = Object.assign(document.createElement("input"), { type: "hidden", name, value });
        copy.dataset.carried = "";
        form.append(copy);
      }
    },
    true,
  );

  listen("click", async (event) => {
    if (hit(event, "[data-keys]")) return find("#keys")?.showModal();
    const button = hit(event, "[data-copy-answer]");
    if (!button) return;
    await navigator.clipboard.writeText(find("[data-body]", button.closest("article")).innerText).catch(() => {});
    const word = find("span", button);
    word.textContent = "Copied";
    announce("Copied");
    setTimeout(() => (word.textContent = "Copy"), 2000);
  });

  // A source opens where its words are.
  listen("htmx:afterSettle", (event) => event.target.matches("[data-panel-body]") && find("#cited", event.target)?.scrollIntoView({ block: "center" }));

  listen(
    "toggle",
    (event) => {
      if (!event.target.matches(".msg__more[open]")) return;
      find("textarea, input:not([type=hidden])", event.target)?.focus({ preventScroll: true });
      find("form", event.target)?.scrollIntoView({ block: "nearest" });
    },
    true,
  );

  const keys = {
    n: () => find("[data-new-thread]")?.click(),
    "/": () => find("#q")?.focus(),
    "?": () => find("#keys")?.showModal(),
    e: () => {
      const last = [...document.querySelectorAll("[data-edit]")].pop();
      if (last) last.open = true;
    },
  };

  listen("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.altKey) return;
    if (event.ctrlKey || event.metaKey) {
      if (event.key !== "Enter" || !hit(event, "[data-enter-sends]")) return;
      event.preventDefault();
      const interrupt = find("[data-interrupt]:not([hidden])", event.target.form);
      if (interrupt) interrupt.click();
      else event.target.form.requestSubmit();
      return;
    }
    const typing = hit(event, "input, textarea, select, [contenteditable]");
    if (event.key === "Enter" && !event.shiftKey && !touch.matches && hit(event, "[data-enter-sends]")) {
      event.preventDefault();
      event.target.form.requestSubmit();
    } else if (event.key === "Escape") {
      const open = hit(event, "details[open].msg__more");
      if (open) {
        open.open = false;
        find("summary", open).focus();
      } else if (!find("dialog[open], details.menu[open], .panel:not([hidden]), :popover-open")) find("[data-stop]:not([hidden])")?.click();
    } else if (!typing && keys[event.key] && !find("dialog[open]")) {
      event.preventDefault();
      keys[event.key]();
    }
  });

  begin();
  if (thread() && !location.hash && !new URLSearchParams(location.search).has("before")) toEnd();
})();
