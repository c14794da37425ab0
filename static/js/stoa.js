// Stoa's one script: copying, menus, toasts, dialogs, the pointer of charts. Every page works without it.
(() => {
  "use strict";

  const listen = (type, act, options) => document.addEventListener(type, act, options);
  const hit = (event, selector) => (event.target instanceof Element ? event.target.closest(selector) : null);

  // Copying: the nearest <code> of a command or a code block.
  async function copy(button) {
    const code = button.closest(".command, .code, [data-copy-scope]")?.querySelector("code");
    if (!code) return;
    const text = code.textContent.replace(/\n$/, "");
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain http on another host than localhost has no clipboard: select the text instead, and say so.
      const range = document.createRange();
      range.selectNodeContents(code);
      const selection = window.getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      if (!document.execCommand("copy")) return;
    }
    const word = button.querySelector("[data-copy-word]");
    button.classList.add("is-done");
    if (word) word.textContent = "Copied";
    say("Copied");
    setTimeout(() => {
      button.classList.remove("is-done");
      if (word) word.textContent = "Copy";
    }, 2000);
  }

  // The store's search asks while one types. Its change, told when the field is left, would ask the same again and
  // replace what is being clicked.
  listen("change", (event) => hit(event, "#search") && event.stopPropagation(), true);

  // On a phone the filters are a sheet over the agents; whoever asks for those wants to see them.
  listen("submit", (event) => hit(event, "#find") && document.querySelector("#filters:popover-open")?.hidePopover());

  // For readers only: the toast region is a live region.
  function say(text) {
    const note = document.createElement("span");
    note.className = "visually-hidden";
    note.textContent = text;
    document.getElementById("toasts")?.append(note);
    setTimeout(() => note.remove(), 2000);
  }

  // Toasts leave after six seconds, not while pointed at or focused; errors stay.
  function age(toast) {
    if (toast.dataset.toast === "bad" || toast.dataset.aging) return;
    toast.dataset.aging = "1";
    const leave = () => {
      if (toast.matches(":hover, :focus-within")) setTimeout(leave, 1500);
      else toast.remove();
    };
    setTimeout(leave, 6000);
  }
  const ageAll = () => document.querySelectorAll("#toasts [data-toast]").forEach(age);

  function toast(text) {
    const region = document.getElementById("toasts");
    if (!region) return;
    const box = document.createElement("div");
    box.className = "toast toast--bad";
    box.setAttribute("role", "alert");
    box.dataset.toast = "bad";
    const words = document.createElement("div");
    words.textContent = text;
    const close = document.createElement("button");
    close.className = "close";
    close.type = "button";
    close.dataset.close = "";
    close.setAttribute("aria-label", "Close");
    close.textContent = "×";
    box.append(document.createElement("span"), words, close);
    region.append(box);
  }

  // Dialogs that arrive in #dialog open as modal; leaving one empties the place.
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

  // A control that sends its form as soon as it is changed; without script the form has its button.
  listen("change", (event) => {
    const control = hit(event, "[data-submit-on-change]");
    control?.form?.requestSubmit();
  });

  // Charts: the pointed column is outlined, its row of the chart's own table is shown beside it.
  let shown = null;

  function point(event) {
    const plot = event.pointerType === "touch" ? null : hit(event, "[data-plot]");
    if (!plot) return unpoint();
    const columns = plot.querySelector(".plot__cols");
    const count = Number(plot.dataset.plot);
    const box = columns.getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * count);
    const row = document.getElementById(plot.dataset.table)?.tBodies[0]?.rows[index];
    if (!row || index < 0 || index >= count) return unpoint();
    if (shown?.plot === plot && shown.index === index) return;
    unpoint();
    const mark = plot.querySelector(".col-mark");
    const cell = 100 / count;
    if (mark) {
      const inset = mark.dataset.line ? 0.5 : (1 - Number(mark.dataset.fill)) / 2;
      mark.setAttribute("x", `${(index + inset) * cell}%`);
      mark.setAttribute("width", mark.dataset.line ? "0.01%" : `${cell * Number(mark.dataset.fill)}%`);
      mark.removeAttribute("hidden");
    }
    const tip = tooltip(row, plot);
    plot.parentElement.append(tip);
    const frame = plot.parentElement.getBoundingClientRect();
    const left = box.left - frame.left + (index / count) * box.width;
    const right = left + box.width / count;
    const width = tip.offsetWidth;
    const space = 10;
    tip.style.left = `${right + space + width <= frame.width ? right + space : Math.max(0, left - space - width)}px`;
    shown = { plot, index, tip, mark };
  }

  function unpoint() {
    if (!shown) return;
    shown.tip.remove();
    shown.mark?.setAttribute("hidden", "");
    shown = null;
  }

  function tooltip(row, plot) {
    const tip = document.createElement("div");
    tip.className = "tooltip tooltip--pointer";
    tip.setAttribute("aria-hidden", "true");
    const title = document.createElement("h4");
    const list = document.createElement("dl");
    const heads = row.closest("table").tHead.rows[0].cells;
    const name = document.createElement("span");
    name.textContent = row.cells[0].dataset.long || row.cells[0].textContent;
    title.append(name);
    for (let i = 1; i < row.cells.length; i += 1) {
      const value = document.createElement("dd");
      value.textContent = row.cells[i].textContent;
      if (heads[i].hasAttribute("data-total")) {
        const sum = document.createElement("span");
        sum.textContent = value.textContent;
        title.append(sum);
      } else {
        const term = document.createElement("dt");
        term.textContent = heads[i].textContent;
        const square = heads[i].querySelector("svg")?.cloneNode(true) ?? document.createElement("span");
        list.append(square, term, value);
      }
    }
    tip.append(title, list);
    return tip;
  }

  listen("pointermove", point, { passive: true });
  listen("pointerleave", unpoint);
  listen("htmx:beforeSwap", unpoint);

  // htmx: what arrives late, and what does not arrive.
  listen("htmx:afterSettle", () => {
    ageAll();
    openDialogs();
  });
  listen("htmx:oobAfterSwap", ageAll);
  listen("htmx:afterRequest", ageAll);
  listen("htmx:sendError", () => toast("The server did not answer. Try again."));
  listen("htmx:timeout", () => toast("The server took too long. Try again."));

  ageAll();
  openDialogs();
})();
