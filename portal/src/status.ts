// What is running, from /readyz: asked again every few seconds while visible.
import "./style.css";

interface Check {
  name: string;
  ok: boolean;
  detail: string;
}

interface Readiness {
  ready: boolean;
  version: string;
  checks: Check[];
}

const AGAIN_MS = 5000;

function element(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

function show({ ready, version, checks }: Readiness): void {
  element("summary").textContent = ready
    ? `Ready: prompts are answered. Version ${version}.`
    : `Not ready to answer prompts. Version ${version}.`;
  element("checks").replaceChildren(
    ...checks.map((check) => {
      const item = document.createElement("li");
      item.className = check.ok ? "ok" : "waiting";
      const name = document.createElement("strong");
      name.textContent = check.name;
      const detail = document.createElement("span");
      detail.textContent = check.detail;
      const state = document.createElement("em");
      state.textContent = check.ok ? "✓ in order" : "… waiting";
      item.append(name, detail, state);
      return item;
    }),
  );
}

async function ask(): Promise<void> {
  try {
    const answer = await fetch("/readyz", { cache: "no-store" });
    show((await answer.json()) as Readiness);
  } catch {
    element("summary").textContent = "No answer from the server. Trying again…";
    element("checks").replaceChildren();
  }
}

element("example").textContent = `curl ${location.origin}/v1/chat/completions \\
  -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \\
  -d '{"model":"smollm2","messages":[{"role":"user","content":"Name three rivers."}],"stream":true}'`;
void ask();
setInterval(() => {
  if (!document.hidden) void ask();
}, AGAIN_MS);
