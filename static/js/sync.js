// The preview of a sync or a rebase: counts the open decisions, keeps the answers in this tab, and decides by keyboard. The form works without it.
(() => {
  "use strict";

  const form = document.getElementById("sync");
  const status = form?.querySelector("[data-left]");
  if (!status) return;
  const decisions = [...form.querySelectorAll("[data-decision]")];
  const rest = form.elements.namedItem("rest");
  const all = Number(status.dataset.left);

  const chosen = (decision) => decision.querySelector('input[type="radio"]:checked');
  const own = (decision) => decision.querySelector("textarea");
  const open = () => decisions.filter((decision) => !chosen(decision));
  const place = (decision) => `sync ${form.dataset.workspace} ${decision.dataset.decision}`;

  function count() {
    const undecided = open();
    for (const decision of decisions) decision.classList.toggle("is-open", undecided.includes(decision));
    if (!all) return;
    // decisions that the page does not show are open until all others are answered at once
    const left = rest?.value ? 0 : undecided.length + all - decisions.length;
    const text = left ? `${left} of ${all} decisions left` : "All decided";
    if (status.textContent !== text) status.textContent = text;
  }

  // Answers outlive a change of the view and a new preview, as long as both sides of the file are the same.
  function keep(decision) {
    const answer = { mark: decision.dataset.mark, choice: chosen(decision)?.value, text: own(decision)?.value };
    try {
      sessionStorage.setItem(place(decision), JSON.stringify(answer));
    } catch {
      // full: the answers stay in the form
    }
  }

  function restore(decision) {
    const kept = JSON.parse(sessionStorage.getItem(place(decision)) ?? "null");
    if (kept?.mark !== decision.dataset.mark || chosen(decision)) return;
    const radio = [...decision.querySelectorAll('input[type="radio"]')].find((each) => each.value === kept.choice);
    if (radio) radio.checked = true;
    if (own(decision) && typeof kept.text === "string") own(decision).value = kept.text;
  }

  function show(decision) {
    decision?.focus({ preventScroll: true });
    decision?.scrollIntoView({ block: "start" });
  }

  // the option whose label names this key
  const optionOf = (decision, key) =>
    [...(decision?.querySelectorAll("[data-key]") ?? [])]
      .find((each) => each.textContent === key)
      ?.closest("label")
      .querySelector("input");

  function choose(decision, radio) {
    radio.checked = true;
    radio.dispatchEvent(new Event("change", { bubbles: true }));
    if (radio.value === "custom") own(decision).focus();
    else show(open().find((each) => decisions.indexOf(each) > decisions.indexOf(decision)) ?? open()[0]);
  }

  const changed = ({ target }) => {
    const decision = target.closest("[data-decision]");
    if (decision) keep(decision);
    count();
  };
  form.addEventListener("change", changed);
  form.addEventListener("input", changed);

  form.addEventListener("submit", (event) => {
    const first = open()[0];
    if (!first || rest?.value) return;
    event.preventDefault();
    show(first);
  });

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (!(event.target instanceof Element) || event.target.closest('input:not([type="radio"]), textarea, select, dialog')) return;
    const here = event.target.closest("[data-decision]");
    const index = decisions.indexOf(here);
    const option = optionOf(here, event.key);
    if (event.key === "j") show(decisions[index + 1] ?? here);
    else if (event.key === "k") show(decisions[index < 0 ? decisions.length - 1 : Math.max(index - 1, 0)]);
    else if (option) choose(here, option);
    else return;
    event.preventDefault();
  });

  if (decisions.length) for (const each of form.querySelectorAll("[data-keys], [data-key]")) each.hidden = false;
  decisions.forEach(restore);
  count();
})();
