// The API reference: RapiDoc over /openapi.json, from this server alone.
import "./style.css";
import "rapidoc";

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const reference = document.createElement("rapi-doc");
for (const [name, value] of Object.entries({
  "spec-url": "/openapi.json",
  theme: dark ? "dark" : "light",
  "primary-color": dark ? "#7db4e6" : "#1f4e79",
  "render-style": "focused",
  "load-fonts": "false",
  "regular-font": "system-ui, sans-serif",
  "mono-font": "ui-monospace, monospace",
  "show-header": "false",
  "allow-server-selection": "false",
  "persist-auth": "false",
})) {
  reference.setAttribute(name, value);
}
document.body.append(reference);
