// Passkeys: forms with `data-passkey` ("sign-in" or "add") fill in the authenticator's answer, then send themselves. The other
// ways to sign in work without this script.
(() => {
  "use strict";

  const REFRESH = 4 * 60 * 1000; // ms; a challenge lasts five minutes
  const forms = () => [...document.querySelectorAll("form[data-passkey]")];
  const credentialOf = (form) => form.elements.namedItem("credential");
  let autofill = null;

  const CAUSES = {
    NotAllowedError: "Cancelled, or no passkey was chosen in time. Try again, or use another way.",
    InvalidStateError: "This device or password manager has a passkey for your account already.",
    NotSupportedError: "This device cannot make such a passkey. Try a phone, a security key or a password manager.",
    ConstraintError: "This device cannot check that it is you. Set a screen lock or a PIN on it, then try again.",
    SecurityError: "Passkeys do not work at this address. Open the server by its own name, with https.",
  };

  function fromBase64(text) {
    const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(binary, (char) => char.charCodeAt(0));
  }

  function toBase64(buffer) {
    const binary = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  async function options(form) {
    const response = await fetch(form.dataset.options, { headers: { Accept: "application/json" }, cache: "no-store" });
    if (response.status === 429) throw new Error("Too many attempts. Wait a minute, then try again.");
    if (!response.ok || response.redirected) throw new Error(form.dataset.refused);
    const found = await response.json();
    found.challenge = fromBase64(found.challenge);
    if (found.user) found.user.id = fromBase64(found.user.id);
    for (const each of [...(found.excludeCredentials ?? []), ...(found.allowCredentials ?? [])]) each.id = fromBase64(each.id);
    return found;
  }

  // As PublicKeyCredential.toJSON(), which not every browser has.
  function written({ id, rawId, type, response, authenticatorAttachment }) {
    const parts = { clientDataJSON: toBase64(response.clientDataJSON) };
    for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"])
      if (response[name]) parts[name] = toBase64(response[name]);
    if (response.getTransports) parts.transports = response.getTransports();
    return JSON.stringify({ id, rawId: toBase64(rawId), type, response: parts, authenticatorAttachment });
  }

  function show(form, text) {
    const problem = form.querySelector("[data-passkey-problem]");
    problem.querySelector("span").textContent = text;
    problem.hidden = !text;
  }

  function send(form, credential, button) {
    credentialOf(form).value = written(credential);
    form.requestSubmit(button);
  }

  async function ask(form, button) {
    autofill?.abort();
    show(form, "");
    button?.setAttribute("aria-busy", "true");
    form.setAttribute("aria-busy", "true");
    try {
      const publicKey = await options(form);
      const credential = await (form.dataset.passkey === "add"
        ? navigator.credentials.create({ publicKey })
        : navigator.credentials.get({ publicKey }));
      send(form, credential, button);
    } catch (error) {
      show(form, CAUSES[error.name] ?? (error.name === "Error" ? error.message : form.dataset.refused));
      button?.removeAttribute("aria-busy");
      form.removeAttribute("aria-busy");
      if (form.dataset.passkey === "sign-in") offer(form);
    }
  }

  // The browser offers passkeys in the field of the e-mail address, and waits until one is chosen.
  async function offer(form) {
    if (!(await PublicKeyCredential.isConditionalMediationAvailable?.())) return;
    const waiting = new AbortController();
    autofill = waiting;
    const timer = setTimeout(() => {
      waiting.abort();
      offer(form);
    }, REFRESH);
    waiting.signal.addEventListener("abort", () => clearTimeout(timer));
    try {
      const publicKey = await options(form);
      if (waiting.signal.aborted) return;
      send(form, await navigator.credentials.get({ publicKey, mediation: "conditional", signal: waiting.signal }));
    } catch {
      // nothing was chosen: the button and the other ways remain
    }
  }

  // Before other listeners: they lock the form.
  document.addEventListener(
    "submit",
    (event) => {
      const form = event.target;
      if (!form.matches("form[data-passkey]") || credentialOf(form).value) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      if (form.getAttribute("aria-busy") !== "true") ask(form, event.submitter);
    },
    true,
  );

  // After "back" the answer is spent.
  window.addEventListener("pageshow", () => {
    for (const form of forms()) {
      credentialOf(form).value = "";
      form.removeAttribute("aria-busy");
    }
  });

  const supported = Boolean(window.PublicKeyCredential && navigator.credentials);
  for (const form of forms()) {
    form.hidden = !supported;
    if (supported && form.dataset.passkey === "sign-in") offer(form);
  }
  for (const each of document.querySelectorAll("[data-passkey-unsupported]")) each.hidden = supported;
})();
