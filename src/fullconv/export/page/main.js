// The page: photos come in, labels are shown, read and saved.

import { Camera } from "./camera.js";
import { countsOf, polygons } from "./labels.js";
import { Legend, percent } from "./legend.js";
import * as local from "./local.js";
import { encode } from "./png.js";
import * as server from "./server.js";
import { View, coloursOf } from "./view.js";

const $ = (id) => document.getElementById(id);
const camera = new Camera();
const legend = new Legend($("legend"), (id) => view.setMarked(id));
const view = new View(document, { reads, picks: (id) => legend.pin(id) });

let model, head, backend; // backend: a promise
let photo = null; // {name, bitmap, blob}; of the camera without blob
let result = null; // {width, height, heads}
let asked = 0; // how many photos there were: only the last one's labels are shown

async function start() {
  model = await (await fetch("model.json")).json();
  for (const { name } of model.heads) $("head").append(new Option(name, name));
  $("head-row").hidden = model.heads.length < 2;
  takeHead(model.heads[0].name);
  const isLocal = model.backend === "local";
  const classes = model.heads.map((each) => each.classes.length).join(" + ");
  $("about").replaceChildren();
  tell([model.title, `${classes} classes`]);
  tell([isLocal ? "photos stay on this machine" : "photos are sent to this server"]);
  if (isLocal) await isolate();
  backend = isLocal ? local.open(model, progress) : server.open(model);
  backend.then(ready, fail);
  for (const button of [$("choose"), $("camera")]) button.disabled = false;
}

/**
 * Register what keeps the site for times without network. It also isolates the page, which gives
 * WebAssembly several threads; but only of pages that it served itself, so load this one again.
 */
async function isolate() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  try {
    await workers.register("sw.js");
    if (crossOriginIsolated || workers.controller || sessionStorage.getItem("again")) {
      return sessionStorage.removeItem("again");
    }
    await Promise.race([workers.ready, new Promise((_, late) => setTimeout(late, 8000))]);
    sessionStorage.setItem("again", "yes");
    location.reload();
    await new Promise(() => {});
  } catch {
    // private windows have none; the page works without
  }
}

async function ready({ facts }) {
  const kept = await globalThis.caches?.match(new URL("model.onnx", document.baseURI).href);
  tell([...facts, ...(model.backend === "local" && kept ? ["works offline"] : [])]);
  document.body.dataset.ready = "yes";
  if (!photo && !camera.isOpen) say("");
}

/** Add facts to what is told of the net. */
function tell(facts) {
  for (const fact of facts) {
    const part = document.createElement("span");
    part.textContent = fact;
    $("about").append(part);
  }
}

// ---- photos come in

async function take(file) {
  if (!file) return;
  closeCamera();
  for (const state of ["labelled", "look"]) delete document.body.dataset[state];
  const own = ++asked;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (own === asked) fail(new Error(`${file.name || "That"}: this browser can't read it as an image.`));
    return;
  }
  if (own === asked) await open({ name: file.name || "photo", blob: file, bitmap });
}

async function open(taken) {
  photo?.bitmap.close();
  photo = taken;
  result = null;
  $("downloads").hidden = true;
  view.clear();
  view.show(photo.bitmap, photo.name);
  await label();
}

async function label() {
  const [own, mine] = [++asked, photo];
  delete document.body.dataset.labelled;
  working(true);
  say("Working out the labels …");
  try {
    const { label: run } = await backend;
    const begun = performance.now();
    const source = mine.blob ? { blob: mine.blob } : { bitmap: await createImageBitmap(mine.bitmap) };
    const labelled = await run(source, head.name, (look) => own === asked && showLook(look));
    labelled.bitmap?.close();
    if (own !== asked) return;
    lay((result = labelled));
    const seconds = ((performance.now() - begun) / 1000).toFixed(1);
    const isReduced = result.width < mine.bitmap.width;
    say(`${result.width} × ${result.height} pixels${isReduced ? ", made smaller," : ""} in ${seconds} s`);
    $("downloads").hidden = false;
    document.body.dataset.labelled = "yes";
    speak(`Labelled. ${summary()}`);
  } catch (error) {
    if (own === asked) fail(error);
  } finally {
    if (own === asked) working(false);
  }
}

function showLook(look) {
  lay((result = look));
  document.body.dataset.look = "yes";
}

function lay({ width, height, heads }, { sorted = true } = {}) {
  const labels = heads[head.name];
  const counts = countsOf(labels);
  view.lay(labels, width, height, head.palette);
  legend.fill([...counts].map((count) => count / labels.length), { sorted });
}

function takeHead(name) {
  head = model.heads.find((each) => each.name === name);
  legend.open(head);
}

// ---- the camera

async function openCamera() {
  if (!Camera.isThere) return $("capture").click();
  try {
    await camera.open();
  } catch (error) {
    return fail(new Error(`The camera can't be used: ${error.message}`));
  }
  asked++;
  photo?.bitmap.close();
  photo = null;
  view.clear();
  legend.open(head);
  cameraIs(true);
  say("Starting …");
  const name = "Live video";
  try {
    const { label: run } = await backend;
    await camera.run((source) => run(source, head.name), (frame, labelled, rate) => {
      view.show(frame, name);
      lay((result = labelled), { sorted: false });
      say(`${result.width} × ${result.height} pixels, ${rate.toFixed(rate < 10 ? 1 : 0)} a second`);
      document.body.dataset.live = "yes";
    });
  } catch (error) {
    fail(error);
  } finally {
    closeCamera();
  }
}

async function shoot() {
  const bitmap = await camera.frame();
  closeCamera();
  await open({ name: "photo", bitmap });
}

function closeCamera() {
  if (!camera.isOpen) return;
  camera.close();
  cameraIs(false);
}

function cameraIs(isOpen) {
  delete document.body.dataset.live;
  for (const id of ["choose", "camera"]) $(id).hidden = isOpen;
  for (const id of ["shoot", "stop"]) $(id).hidden = !isOpen;
  if (isOpen) $("downloads").hidden = true;
  (isOpen ? $("shoot") : $("camera")).focus();
}

// ---- what is said

function reads(id, x, y, aloud) {
  legend.point(id ?? null);
  if (id === null) return "";
  const name = head.classes[id] ?? `id ${id}`;
  if (aloud) speak(`${name}, at ${x}, ${y}`);
  return name;
}

function summary() {
  const labels = result.heads[head.name];
  return [...countsOf(labels).entries()]
    .filter(([, count]) => count)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 5)
    .map(([id, count]) => `${head.classes[id] ?? id} ${percent(count / labels.length)}`)
    .join(", ");
}

function say(text) {
  $("status").textContent = text;
  $("status").classList.remove("error");
}

function speak(text) {
  $("spoken").textContent = text;
}

function fail(error) {
  console.error(error);
  working(false);
  $("status").textContent = error.message;
  $("status").classList.add("error");
}

function progress(share) {
  const percents = `${Math.floor(100 * share)} %`;
  if (document.body.dataset.ready) say(`A first look; all of it: ${percents}`);
  else if (!photo) say(share < 1 ? `Loading the net: ${percents}` : "Starting the net …");
}

function working(is) {
  $("working").hidden = !is;
  $("stage").setAttribute("aria-busy", String(is));
}

// ---- what is saved

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const stem = () => photo.name.replace(/\.[^.]*$/, "");

async function saveLabels() {
  const { width, height } = result;
  save(await encode(result.heads[head.name], width, height, head.palette), `${stem()}.png`);
}

async function saveOverlay() {
  const { width, height } = result;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = new ImageData(width, height);
  const colours = coloursOf(head.palette);
  new Uint32Array(image.data.buffer).set(Uint32Array.from(result.heads[head.name], (id) => colours[id]));
  context.drawImage(photo.bitmap, 0, 0, width, height);
  context.globalAlpha = $("opacity").value / 100;
  context.drawImage(await createImageBitmap(image), 0, 0);
  save(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }), `${stem()}-overlay.jpg`);
}

function savePolygons() {
  const { width, height } = result;
  const text = JSON.stringify(polygons(result.heads[head.name], width, height, head.classes));
  save(new Blob([text], { type: "application/geo+json" }), `${stem()}.geojson`);
}

// ---- what is done with the page

$("choose").addEventListener("click", () => $("file").click());
$("invitation").parentElement.addEventListener("click", ({ currentTarget }) => {
  if (currentTarget.classList.contains("empty") && !$("choose").disabled) $("file").click();
});
$("camera").addEventListener("click", openCamera);
$("shoot").addEventListener("click", shoot);
$("stop").addEventListener("click", () => {
  closeCamera();
  say("");
});
for (const id of ["file", "capture"]) {
  $(id).addEventListener("change", ({ target }) => {
    take(target.files[0]);
    target.value = "";
  });
}
$("head").addEventListener("change", ({ target }) => {
  takeHead(target.value);
  if (result?.heads[head.name]) lay(result);
  else if (photo) label();
});
$("opacity").addEventListener("input", ({ target }) => {
  document.documentElement.style.setProperty("--opacity", target.value / 100);
  $("opacity-value").textContent = `${target.value} %`;
});
$("save-labels").addEventListener("click", saveLabels);
$("save-overlay").addEventListener("click", saveOverlay);
$("save-polygons").addEventListener("click", savePolygons);
document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("stage").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("stage").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

start().catch(fail);
