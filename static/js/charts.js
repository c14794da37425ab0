// Charts: a tooltip for the column under the pointer or, with the arrow keys, for the chosen one, which is announced. The numbers are
// those of the chart's table, which works without this script.
(() => {
  "use strict";

  const listen = (type, handler, options) => document.addEventListener(type, handler, options);
  const plotOf = (event) => (event.target instanceof Element ? event.target.closest("[data-plot]") : null);
  let active = null;

  function rowOf(plot, index) {
    return document.getElementById(plot.dataset.table)?.tBodies[0]?.rows[index];
  }

  function show(plot, index, byKey) {
    const count = Number(plot.dataset.plot);
    const row = rowOf(plot, index);
    if (!row || index < 0 || index >= count) return hide();
    if (active?.plot === plot && active.index === index && active.byKey === byKey) return;
    hide();
    const box = plot.querySelector(".plot__cols").getBoundingClientRect();
    const mark = plot.querySelector(".col-mark");
    const cell = 100 / count;
    if (mark) {
      const inset = mark.dataset.line ? 0.5 : (1 - Number(mark.dataset.fill)) / 2;
      mark.setAttribute("x", `${(index + inset) * cell}%`);
      mark.setAttribute("width", mark.dataset.line ? "0.01%" : `${cell * Number(mark.dataset.fill)}%`);
      mark.removeAttribute("hidden");
    }
    const tip = tooltip(row);
    plot.parentElement.append(tip);
    const frame = plot.parentElement.getBoundingClientRect();
    const left = box.left - frame.left + (index / count) * box.width;
    const right = left + box.width / count;
    const width = tip.offsetWidth;
    const space = 10;
    tip.style.left = `${right + space + width <= frame.width ? right + space : Math.max(0, left - space - width)}px`;
    active = { plot, index, byKey, tip, mark };
  }

  function hide() {
    if (!active) return;
    active.tip.remove();
    active.mark?.setAttribute("hidden", "");
    active = null;
  }

  function tooltip(row) {
    const tip = document.createElement("div");
    tip.className = "tooltip tooltip--pointer";
    tip.setAttribute("aria-hidden", "true");
    const title = document.createElement("h4");
    const list = document.createElement("dl");
    const heads = row.closest("table").tHead.rows[0].cells;
    const name = document.createElement("span");
    name.textContent = row.cells[0].textContent;
    title.append(name);
    for (let i = 1; i < row.cells.length; i += 1) {
      const value = document.createElement("dd");
      value.textContent = row.cells[i].textContent;
      if (heads[i].hasAttribute("data-total")) {
        const sum = document.createElement("span");
        sum.textContent = value.textContent;
        title.append(sum);
      } else if (row.cells.length < 5 || !row.cells[i].classList.contains("zero")) {
        const term = document.createElement("dt");
        term.textContent = heads[i].textContent;
        const square = heads[i].querySelector("svg")?.cloneNode(true) ?? document.createElement("span");
        list.append(square, term, value);
      }
    }
    tip.append(title, list);
    return tip;
  }

  // One live region for all charts, outside of what htmx swaps.
  function announce(row) {
    let region = document.getElementById("chart-column");
    if (!region) {
      region = document.createElement("div");
      region.id = "chart-column";
      region.className = "visually-hidden";
      region.setAttribute("role", "status");
      document.body.append(region);
    }
    const heads = row.closest("table").tHead.rows[0].cells;
    const parts = [...row.cells].map((cell, i) => (i ? `${heads[i].textContent} ${cell.textContent}` : cell.textContent));
    region.textContent = parts.filter((_, i) => !row.cells[i].classList.contains("zero")).join(", ");
  }

  function pointed(event) {
    const plot = event.pointerType === "touch" ? null : plotOf(event);
    if (!plot) return active?.byKey ? null : hide();
    const box = plot.querySelector(".plot__cols").getBoundingClientRect();
    return show(plot, Math.floor(((event.clientX - box.left) / box.width) * Number(plot.dataset.plot)), false);
  }

  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

  listen("keydown", (event) => {
    const plot = event.target instanceof Element && event.target.matches("[data-plot]") ? event.target : null;
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = Number(plot.dataset.plot) - 1;
    const at = active?.plot === plot ? active.index : null;
    if (event.key in steps) {
      event.preventDefault();
      const step = steps[event.key];
      const index = at === null && Math.abs(step) === 1 ? last : Math.min(last, Math.max(0, (at ?? 0) + step));
      show(plot, index, true);
      if (active) announce(rowOf(plot, index));
    } else if (event.key === "Enter" && at !== null) {
      const link = plot.querySelectorAll(".plot__cols a")[at];
      link?.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    } else if (event.key === "Escape") {
      hide();
    }
  });

  listen("focusout", (event) => plotOf(event) && hide());
  listen("pointermove", pointed, { passive: true });
  listen("pointerleave", hide);
  listen("htmx:beforeSwap", hide);

  // With the script, charts are stops of the tab key.
  function prepare() {
    document.querySelectorAll("[data-plot]:not([tabindex])").forEach((plot) => {
      plot.tabIndex = 0;
    });
  }
  listen("htmx:afterSettle", prepare);
  prepare();
})();
