// Streams the answers of the playground. Without this script the form shows them whole.
(() => {
  "use strict";

  const form = document.querySelector("[data-playground]");
  if (!form) return;
  const status = form.querySelector("[data-status]");
  const stop = form.querySelector("[data-stop]");
  const send = form.querySelector("button[type=submit]");
  const prompt = form.elements.namedItem("prompt");
  const sideOf = (name) => form.querySelector(`[data-side="${name}"]`);
  let running = [];

  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("-");

  function showModels() {
    for (const name of ["a", "b"]) {
      const model = form.elements.namedItem(`model_${name}`).value.trim();
      sideOf(name).querySelector("[data-model-name]").textContent = model;
      if (name === "b") sideOf(name).hidden = !model;
    }
  }

  function addTurn(turns, role, title) {
    const turn = document.createElement("article");
    turn.className = `turn turn--${role}`;
    const heading = document.createElement("h3");
    heading.textContent = title;
    turn.append(heading);
    turns.append(turn);
    return turn;
  }

  function addText(parent, className, text = "") {
    const element = document.createElement("p");
    element.className = className;
    element.textContent = text;
    parent.append(element);
    return element;
  }

  // Errors of fields, as the server writes them on the page.
  function showFields(fields) {
    form.querySelectorAll("[data-field-error]").forEach((each) => each.remove());
    form.querySelectorAll("[aria-invalid]").forEach((each) => each.removeAttribute("aria-invalid"));
    for (const [name, message] of Object.entries(fields)) {
      const control = form.elements.namedItem(name);
      if (!control) continue;
      control.setAttribute("aria-invalid", "true");
      const error = addText(control.closest(".field"), "field__error", message);
      error.dataset.fieldError = "";
      error.id = `${control.id}-e`;
      control.setAttribute("aria-describedby", error.id);
    }
    form.querySelector("[aria-invalid]")?.focus();
  }

  function insert(parent, html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    parent.append(holder.content);
  }

  async function* eventsOf(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n");
        const data = lines.find((line) => line.startsWith("data: "));
        const name = lines.find((line) => line.startsWith("event: "));
        if (data && name) yield [name.slice(7), JSON.parse(data.slice(6))];
      }
    }
  }

  function finish(side, turn, end) {
    turn.replaceChildren(turn.querySelector("h3"));
    const body = document.createElement("div");
    body.className = "prose";
    body.innerHTML = end.html;
    turn.append(body);
    insert(turn, end.error + end.facts);
    form.elements.namedItem(`conversation_${side}`).value = JSON.stringify(end.conversation);
    if (side === "a") form.querySelectorAll("[data-code] code").forEach((code, at) => { code.textContent = end.code[at]; });
  }

  // The figures of a stopped answer, once it is settled.
  async function showFigures(turn, address) {
    for (let tries = 0; tries < 6; tries += 1) {
      await new Promise((resolve) => setTimeout(resolve, 500 * (tries + 1)));
      const response = await fetch(address);
      if (response.status === 200) {
        insert(turn, await response.text());
        return;
      }
      if (response.status !== 404) return;
    }
  }

  // Returns whether the answer came whole.
  async function ask(side, data, text) {
    const turns = sideOf(side).querySelector("[data-turns]");
    turns.querySelector("[data-empty]")?.remove();
    turns.querySelectorAll(":scope > :is(.notice, .field__error)").forEach((each) => each.remove());
    const question = addTurn(turns, "user", "You");
    addText(question, "turn__text", text);
    const turn = addTurn(turns, "assistant", "Answer");
    turn.setAttribute("aria-busy", "true");
    const controller = new AbortController();
    running.push(controller);
    let written = null;
    let thinking = null;
    let ended = false;
    let figures = "";
    data.set("side", side);
    data.set("form_token", random());
    try {
      const response = await fetch(form.action, { method: "POST", body: data, headers: { Accept: "text/event-stream" }, signal: controller.signal });
      if (response.redirected) {
        location.assign(response.url);
        return false;
      }
      const type = response.headers.get("Content-Type") ?? "";
      if (!type.startsWith("text/event-stream")) {
        question.remove();
        turn.remove();
        const answer = await response.text();
        if (type.startsWith("application/json")) showFields(JSON.parse(answer).fields ?? {});
        else if (!/^\s*<!doctype/i.test(answer)) insert(turns, answer);
        else addText(turns, "field__error", `The server refused the message (${response.status}). Reload the page, then try again.`);
        return false;
      }
      for await (const [name, value] of eventsOf(response)) {
        if (name === "call") figures = value;
        else if (name === "text") (written ??= addText(turn, "turn__text")).append(value);
        else if (name === "thinking") (thinking ??= addText(turn, "turn__thinking")).append(value);
        else if (name === "end") {
          finish(side, turn, value);
          ended = true;
        }
      }
      if (!ended) addText(turn, "field__error", "The connection ended before the answer did. What was written is charged.");
    } catch (error) {
      const stopped = error.name === "AbortError";
      addText(turn, stopped ? "turn__facts" : "field__error", stopped ? "Stopped. What was written is charged." : "The server did not respond. Send the message again.");
      if (stopped && figures) showFigures(turn, figures);
      if (stopped && written) {
        // the conversation goes on from what was read
        const kept = form.elements.namedItem(`conversation_${side}`);
        const before = kept.value ? JSON.parse(kept.value) : [];
        kept.value = JSON.stringify([...before, { role: "user", content: text }, { role: "assistant", content: written.textContent }]);
        ended = true;
      }
    } finally {
      turn.removeAttribute("aria-busy");
    }
    return ended;
  }

  function setBusy(busy) {
    stop.hidden = !busy;
    send.disabled = busy;
    status.textContent = busy ? "Answering" : "";
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running.length) return;
    showFields({});
    showModels();
    const text = prompt.value;
    const sides = ["a", "b"].filter((name) => form.elements.namedItem(`model_${name}`).value.trim());
    const work = (sides.length ? sides : ["a"]).map((side) => ask(side, new FormData(form), text));
    setBusy(true);
    prompt.value = "";
    const answers = await Promise.all(work);
    const stopped = running.some((each) => each.signal.aborted);
    running = [];
    setBusy(false);
    if (!answers.some(Boolean) && !prompt.value) prompt.value = text;
    status.textContent = stopped ? "Stopped" : answers.some(Boolean) ? "Answered" : "";
    if (!form.querySelector("[aria-invalid]")) prompt.focus({ preventScroll: true });
  });

  stop.addEventListener("click", () => running.forEach((each) => each.abort()));
  form.addEventListener("input", (event) => event.target.name?.startsWith("model_") && showModels());
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
})();
