// The fields of the page. ?model=FOLDER names the exported model, by default "model" beside the page.

import { Model } from "./model.js";

const part = (id) => document.getElementById(id);
const folder = new URLSearchParams(location.search).get("model") ?? "model";
let model;
let states; // of the chosen picture
let latest = 0; // number of the last task
let running = Promise.resolve();

/** Do something that takes long, and say so. Tasks run one after the other; those that a later one replaced do not. */
async function task(doing, work) {
  const number = ++latest;
  const message = part("message");
  message.textContent = doing;
  message.classList.remove("error");
  try {
    running = running.catch(() => {}).then(() => number === latest && work());
    const show = await running;
    if (number !== latest) return;
    show();
    message.textContent = "Ready.";
  } catch (error) {
    if (number !== latest) return;
    message.textContent = error.message;
    message.classList.add("error");
  }
}

async function describe() {
  const [file] = part("file").files;
  if (!file) return;
  states = undefined;
  part("caption").textContent = "";
  part("matches").hidden = true;
  URL.revokeObjectURL(part("picture").src);
  part("picture").src = URL.createObjectURL(file);
  part("picture").hidden = false;
  await task("Looking at the picture ...", async () => {
    const found = await model.encode(file);
    const caption = await model.caption(found);
    const matches = await match(found);
    return () => {
      states = found;
      part("caption").textContent = caption;
      showMatches(matches);
    };
  });
}

async function compare() {
  if (!states) return;
  await task("Comparing ...", async () => {
    const matches = await match(states);
    return () => showMatches(matches);
  });
}

function match(found) {
  const texts = part("texts").value.split("\n").filter((text) => text.trim());
  return model.match(found, texts);
}

function showMatches(matches) {
  const rows = matches.map(({ text, score, similarity }) => {
    const row = document.createElement("tr");
    const bar = document.createElement("meter");
    bar.value = score;
    for (const content of [text, `${(100 * score).toFixed(1)} %`, similarity.toFixed(2)]) {
      row.insertCell().textContent = content;
    }
    row.cells[1].prepend(bar);
    return row;
  });
  part("matches").tBodies[0].replaceChildren(...rows);
  part("matches").hidden = rows.length === 0;
}

await task("Loading the model ...", async () => {
  model = await Model.load(folder);
  return () => {
    part("file").disabled = false;
  };
});
part("file").addEventListener("change", describe);
part("texts").addEventListener("change", compare);
