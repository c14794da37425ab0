// Attaches files to a thread: chosen or dropped, with progress. Without this script they are sent with the message.
(() => {
  "use strict";

  const find = (selector, root = document) => root.querySelector(selector);

  function parsed(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content.querySelector("#attached");
  }

  function announce(text) {
    find("[data-announce]").textContent = text;
  }

  // Files: into an open thread at once, with progress; into a new one with its first message.
  function attach(input) {
    const note = find("[data-file-names]", input.form);
    const names = [...input.files].map((file) => file.name).join(", ");
    note.textContent = names;
    note.removeAttribute("data-failed");
    if (!input.dataset.upload || !input.files.length) return;
    const data = new FormData();
    for (const file of input.files) data.append("files", file);
    data.set("csrf_token", input.form.elements.namedItem("csrf_token").value);
    input.value = "";
    const sent = new XMLHttpRequest();
    sent.open("POST", input.dataset.upload);
    sent.setRequestHeader("HX-Request", "true");
    sent.upload.onprogress = ({ loaded, total }) => (note.textContent = `Uploading ${Math.round((100 * loaded) / total)} %: ${names}`);
    sent.onloadend = () => {
      const fresh = parsed(sent.responseText);
      const problem = sent.status === 413 ? "Too large: attach at most 20 MB at a time." : "Not uploaded. Try again.";
      note.textContent = fresh ? "" : problem;
      note.toggleAttribute("data-failed", !fresh);
      if (!fresh) return announce(problem);
      find("#attached").replaceWith(fresh);
      window.htmx.process(fresh);
      announce(find("[role=alert]", fresh)?.textContent ?? "Attached");
    };
    sent.send(data);
  }
  document.addEventListener("change", (event) => event.target.matches("[data-files]") && attach(event.target));
  for (const type of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(type, (event) => {
      const form = find("[data-prompt]");
      const input = form && find("[data-files]", form);
      if (!input || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      form.toggleAttribute("data-drop", type === "dragover");
      if (type !== "drop") return;
      input.files = event.dataTransfer.files;
      attach(input);
    });
  }
})();
