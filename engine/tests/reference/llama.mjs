// Greedy tokens by llama.cpp (npm package node-llama-cpp), for greedy.json.
// node llama.mjs MODEL RENDERED.json OUT.json; see reference.py.
import { readFile, writeFile } from "node:fs/promises";
import { getLlama, getModuleVersion } from "node-llama-cpp";

const [model_path, rendered_path, out_path] = process.argv.slice(2);
const { steps, prompts, texts } = JSON.parse(await readFile(rendered_path, "utf8"));
const llama = await getLlama({ gpu: false, build: "never", maxThreads: 2 });
const model = await llama.loadModel({ modelPath: model_path });
const answers = [];
for (const { name, text } of prompts) {
  const context = await model.createContext({ contextSize: 1024, sequences: 1 });
  const sequence = context.getSequence();
  const prompt_ids = model.tokenize(text, true);
  const ids = [];
  for await (const id of sequence.evaluate(prompt_ids, { temperature: 0, yieldEogToken: true })) {
    ids.push(id);
    if (ids.length === steps || model.isEogToken(id)) break;
  }
  answers.push({ name, prompt_ids, ids });
  await context.dispose();
}
const tokenized = texts.map((text) => ({ text, ids: model.tokenize(text, false) }));
const engine = `node-llama-cpp ${await getModuleVersion()}, llama.cpp ${llama.llamaCppRelease.release}`;
await writeFile(out_path, JSON.stringify({ engine, answers, texts: tokenized }));
await llama.dispose();
