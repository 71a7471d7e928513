"use strict";

const RANKS = ["order", "family", "genus", "species"];
const AT_ONCE = 4; // requests
const BARCODES = 25; // of a request
const PICTURES = /\.(jpe?g|png|tiff?|webp|bmp|gif|heic|avif)$/i;
const PLACE = "bioscan-clip history";

const find = (selector, within = document) => within.querySelector(selector);
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const counted = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

let facts;
let batches = []; // each: {title, done, entries}, the newest first
let cropped; // the entry whose crop is being adjusted

/** Make an element. Text goes in as text, never as HTML: names and ids are other people's. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

// What goes to the service.

async function ask(path, body, headers = {}) {
  for (let tries = 0; ; tries += 1) {
    let response;
    try {
      response = await fetch(path, { method: "POST", body, headers });
    } catch {
      if (tries > 3) throw new Error("The service cannot be reached; is it still running?");
      await pause(1 + tries);
      continue;
    }
    if (response.status === 503 && tries < 60) {
      await pause(Number(response.headers.get("Retry-After")) || 1);
      continue;
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(answer.detail || `The service answers ${response.status}.`);
    return answer;
  }
}

function options(entry) {
  const chosen = { precision: precision(), restrict_to: find("#taxa").value.trim() };
  return entry.leave_out ? { ...chosen, leave_out: entry.leave_out } : chosen;
}

function nameEntries(entries) {
  const [first] = entries;
  if (!first.file) {
    const barcodes = entries.map(({ id, barcode }) => ({ id, barcode }));
    const body = JSON.stringify({ ...options(first), barcodes });
    return ask("api/identify", body, { "Content-Type": "application/json" });
  }
  const form = new FormData();
  form.append("photos", first.file, first.id);
  form.append("crop", Array.isArray(first.crop) ? first.crop.join(",") : first.crop);
  if (first.barcode) form.append("barcodes", first.barcode);
  for (const [name, value] of Object.entries(options(first))) form.append(name, value);
  return ask("api/identify", form);
}

async function nameSome(entries) {
  try {
    const answer = await nameEntries(entries);
    entries.forEach((entry, row) => {
      entry.result = answer.results[row];
      entry.error = entry.result.query ? "" : entry.result.error;
    });
    warnOfNames(answer);
  } catch (error) {
    for (const entry of entries) Object.assign(entry, { result: null, error: error.message });
  }
}

/** Name the entries of a batch, a few requests at a time; answers are shown as they come. */
async function run(batch, entries = batch.entries) {
  const groups = [];
  for (const entry of entries) {
    const last = groups.at(-1);
    const fits = last && last.length < BARCODES && !entry.file && !last[0].file;
    if (fits && last[0].leave_out === entry.leave_out) last.push(entry);
    else groups.push([entry]);
  }
  batch.left = entries.length;
  entries.forEach((entry) => (entry.waits = true));
  show();
  const work = async () => {
    for (let group = groups.shift(); group; group = groups.shift()) {
      await nameSome(group);
      group.forEach((entry) => (entry.waits = false));
      batch.left -= group.length;
      show();
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  save();
}

async function add(what, entries) {
  if (!entries.length) return;
  const time = new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const batch = { title: `${counted(entries.length, what)}, ${time}`, entries, left: 0 };
  entries.forEach((entry) => (entry.open = entries.length <= 2));
  batches.unshift(batch);
  const narrow = matchMedia("(max-width: 820px)").matches;
  if (narrow) find(".answers").scrollIntoView({ behavior: "smooth" });
  await run(batch, entries.filter((entry) => !entry.error));
}

// What people give.

async function photoEntry(file) {
  const entry = { id: file.name || "pasted photo", file, crop: find("#crop").checked ? "auto" : "none" };
  const most = facts.limits.request_bytes;
  if (!facts.takes.includes("photo")) entry.error = "The model of this library takes no photos.";
  else if (file.size > most - 4096)
    entry.error = `It has ${(file.size / 1e6).toFixed(0)} MB; photos of up to ${most / 1e6} MB are taken.`;
  else entry.thumb = await thumbnail(file);
  return entry;
}

/** Draw a photo small, to be kept with the history; empty if the browser cannot read it. */
async function thumbnail(file) {
  try {
    const image = await createImageBitmap(file, { resizeWidth: 360, resizeQuality: "medium" });
    const canvas = make("canvas", { width: image.width, height: image.height });
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL("image/jpeg", 0.8);
  } catch {
    return "";
  }
}

async function addBarcodes(text, name = "Barcodes") {
  try {
    const { barcodes } = await ask("api/barcodes", text, { "Content-Type": "text/plain" });
    await add("barcode", barcodes);
  } catch (error) {
    await add("file", [{ id: name, error: error.message }]);
  }
}

/** Name a photo's specimen by its barcode as well, or by the photo alone again if there is none. */
async function join(entry) {
  try {
    const text = (entry.draft || "").trim();
    const listed = text ? await ask("api/barcodes", text, { "Content-Type": "text/plain" }) : null;
    if (listed?.barcodes.length > 1) throw new Error(`These are ${listed.barcodes.length} barcodes; give one.`);
    entry.barcode = listed ? listed.barcodes[0].barcode : "";
    entry.refused = "";
    await run(batches.find((batch) => batch.entries.includes(entry)), [entry]);
  } catch (error) {
    entry.refused = error.message;
    show();
  }
}

async function isText(file) {
  const head = await file.slice(0, 256).arrayBuffer();
  try {
    return !new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true }).includes("\0");
  } catch {
    return false;
  }
}

async function addFiles(files) {
  const photos = [];
  const texts = [];
  for (const file of files) {
    const isPhoto = file.type.startsWith("image/") || PICTURES.test(file.name) || !(await isText(file));
    (isPhoto ? photos : texts).push(file);
  }
  await add("photo", await Promise.all(photos.map(photoEntry)));
  for (const file of texts) await addBarcodes(await file.text(), file.name);
}

async function addExample(example, asBarcode) {
  if (asBarcode) {
    await add("barcode", [{ id: example.id, barcode: example.barcode, leave_out: example.id }]);
    return;
  }
  const photo = await fetch(photoOf(example.id));
  const file = new File([await photo.blob()], example.id, { type: "image/jpeg" });
  await add("photo", [{ ...(await photoEntry(file)), leave_out: example.id }]);
}

// Names, as far as they are certain.

const precision = () => Number(find("#precision").value) / 100;

/** Say which names pass at the chosen precision, as the service does. */
function accept(result) {
  const calibrated = facts.calibrated[result.query];
  if (!calibrated) return result;
  const step = facts.precisions.findIndex((one) => one > precision() - 1e-6);
  const accepted = { ...result, accepted_rank: null, accepted_name: null };
  const path = [];
  RANKS.forEach((rank, place) => {
    const threshold = calibrated.thresholds[place][step];
    const passes = path.length === place && threshold !== null && result[`${rank}_confidence`] >= threshold;
    accepted[`${rank}_accepted`] = passes;
    if (passes) {
      path.push(result[rank]);
      Object.assign(accepted, { accepted_rank: rank, accepted_name: result[rank] });
    }
  });
  const rest = path.length < RANKS.length ? [`${RANKS[path.length]} uncertain`] : [];
  accepted.answer = [path.join(" > "), ...rest].filter(Boolean).join("; ");
  return accepted;
}

function percent(share) {
  if (share > 0.999) return "> 99.9%";
  return `${(100 * share).toFixed(share > 0.99 || share < 0.01 ? 1 : 0)}%`;
}

const latin = (rank) => (rank === "genus" || rank === "species" ? "latin" : "");

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;

/** Say in a line or two how far down a specimen is named, or why it is not. */
function headline(entry) {
  const source = `${kindOf(entry)} ${entry.id}`;
  const lines = (...parts) => make("span", {}, ...parts);
  const under = (text) => make("span", { className: "of" }, text);
  if (entry.waits) return lines(make("b", {}, "…"), under(source));
  if (entry.error) return lines(make("b", {}, sentence(entry.error.replace(/^(photo|barcode): /, ""))), under(source));
  const result = accept(entry.result);
  const path = RANKS.filter((rank) => result[`${rank}_accepted`]).map((rank) => result[rank]);
  if (!result.query)
    return lines(make("b", { className: "warning" }, "This does not look like a COI barcode."), under(source));
  if (!(result.query in facts.calibrated)) return lines(make("b", {}, result.answer), under(source));
  if (!path.length) return lines(make("b", {}, "No name is certain enough"), under(source));
  const rank = result.accepted_rank;
  const name = make("span", { className: latin(rank) }, result.accepted_name);
  const deepest = make("b", {}, rank === "species" ? "" : `${rank} `, name);
  return lines(deepest, under([path.slice(0, -1).join(" › "), source].filter(Boolean).join(" · ")));
}

function nameList(result) {
  const isCalibrated = result.query in facts.calibrated;
  const items = RANKS.filter((rank) => result[rank]).map((rank) => {
    const certain = Boolean(result[`${rank}_accepted`]);
    const share = result[`${rank}_confidence`];
    const bar = make("i");
    bar.style.width = `${100 * (share || 0)}%`;
    return make(
      "li",
      { className: certain ? "certain" : "" },
      make("span", { className: "mark", title: certain ? "certain" : "uncertain", ariaHidden: "true" }, certain ? "✓" : "?"),
      make("span", { className: "rank" }, rank),
      make("b", { className: latin(rank) }, result[rank]),
      make("span", { className: "chance" }, isCalibrated ? percent(share) : "–"),
      make("span", { className: "unseen" }, certain ? "certain" : "uncertain"),
      isCalibrated ? make("span", { className: "bar", ariaHidden: "true" }, bar) : null,
    );
  });
  return make("ol", { className: "names" }, ...items);
}

function remarks(result) {
  const said = [];
  if (result.in_library !== null && result.species)
    said.push(`Its species is in the library with a probability of ${percent(result.in_library)}.`);
  if (result.conflict) said.push(`Equally near: ${result.conflict}.`);
  for (const text of [result.note, result.error]) if (text) said.push(sentence(text));
  return make("ul", { className: "remarks" }, ...said.map((text) => make("li", {}, text)));
}

const photoOf = (id) => `api/library/photo?id=${encodeURIComponent(id)}`;

function nearest(result) {
  if (!result.nearest_ids.length) return null;
  const items = result.nearest_ids.map((id, place) => {
    const name = result.nearest_names[place];
    const image = make("img", { src: photoOf(id), alt: `Photo of ${name || id}`, loading: "lazy" });
    const link = make("a", { href: photoOf(id), target: "_blank", rel: "noopener" }, image);
    image.onerror = () => link.replaceWith(make("span", { className: "none" }, "no photo"));
    const identity = result.nearest_identities[place];
    return make(
      "li",
      {},
      link,
      make("b", { className: name.includes(" ") ? "latin" : "" }, name || "without a name"),
      make("small", {}, id),
      make("small", {}, `similarity ${result.nearest_similarities[place].toFixed(3)}`),
      identity == null ? null : make("small", {}, `identity ${identity.toFixed(1)}%`),
    );
  });
  return make("div", { className: "near" }, make("h3", {}, "Nearest known specimens"), make("ol", {}, ...items));
}

/** Lay a frame over the part of a photo that counted; sizes are shares of the photo's. */
function frameOver(frame, [left, top, right, bottom], [width, height]) {
  const shares = { left: left / width, top: top / height, width: (right - left) / width, height: (bottom - top) / height };
  for (const [name, share] of Object.entries(shares)) frame.style[name] = `${100 * share}%`;
}

function photoPart(entry) {
  const seen = make("div", { className: "seen" }, make("img", { src: entry.thumb, alt: `Your photo ${entry.id}` }));
  if (entry.result.crop) {
    const frame = make("div", { className: "frame" });
    frameOver(frame, entry.result.crop, entry.result.photo_size);
    seen.append(frame);
  }
  const adjust = make("button", { className: "button quiet small", onclick: () => openCropper(entry) }, "Adjust the crop");
  return make("div", { className: "photo" }, seen, entry.file ? adjust : null, entry.file ? barcodePart(entry) : null);
}

function barcodePart(entry) {
  if (!facts.takes.includes("barcode")) return null;
  const text = make("textarea", { rows: 3, spellcheck: false, value: entry.draft || "", ariaLabel: `Barcode of ${entry.id}` });
  text.oninput = () => (entry.draft = text.value);
  const button = make("button", { className: "button quiet small", onclick: () => join(entry) }, "Name by both");
  const refused = entry.refused ? make("p", { className: "warning" }, entry.refused) : null;
  const part = make("details", { open: Boolean(entry.joins) }, make("summary", {}, "Add its barcode"), text, button, refused);
  part.ontoggle = (event) => {
    event.stopPropagation();
    entry.joins = part.open;
  };
  return part;
}

function thumb(entry) {
  if (entry.thumb) return make("img", { className: "thumb", src: entry.thumb, alt: "" });
  const icon = find(entry.error ? "#mark" : "#helix").content.cloneNode(true);
  return make("span", { className: "thumb" }, icon);
}

function kindOf(entry) {
  if ("crop" in entry) return entry.barcode ? "photo and barcode" : "photo";
  return entry.barcode ? "barcode" : "file";
}

function card(entry) {
  const summary = make("summary", {}, thumb(entry), headline(entry));
  const element = make("details", { className: entry.error ? "card failed" : "card", open: Boolean(entry.open) }, summary);
  element.ontoggle = () => {
    entry.open = element.open;
    if (element.open && element.children.length === 1) element.append(inside(entry));
  };
  if (entry.open && (entry.result || entry.error)) element.append(inside(entry));
  return element;
}

function inside(entry) {
  if (entry.error || !entry.result)
    return make("div", { className: "inside" }, make("p", {}, entry.error ? advice(entry) : "It is being named."));
  const result = accept(entry.result);
  const upper = make("div", { className: entry.thumb ? "upper" : "upper alone" });
  if (entry.thumb) upper.append(photoPart(entry));
  upper.append(make("div", {}, nameList(result), remarks(result)));
  return make("div", { className: "inside" }, upper, nearest(result));
}

function advice(entry) {
  return entry.file
    ? "Nothing was named. Photos are JPEG, PNG, TIFF, WebP, BMP or GIF files."
    : "Nothing was named. A barcode is written in the letters A, C, G, T and N, or the codes for several bases.";
}

// The page.

let drawing = 0;
function show() {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(draw);
}

function draw() {
  const focused = document.activeElement?.closest?.(".card");
  const place = focused ? [...document.querySelectorAll(".card")].indexOf(focused) : -1;
  const sections = batches.map((batch) => {
    const count = batch.entries.length;
    const title = make("h2", {}, batch.left ? `${batch.title}: ${count - batch.left} of ${count} named` : batch.title);
    const bar = make("progress", { max: count, value: count - batch.left, ariaLabel: batch.title });
    return make("section", { className: "batch" }, make("header", {}, title, batch.left ? bar : null), ...batch.entries.map(card));
  });
  find("#history").replaceChildren(...sections);
  if (place >= 0) document.querySelectorAll(".card > summary")[place]?.focus({ preventScroll: true });
  const entries = batches.flatMap((batch) => batch.entries);
  const waiting = entries.filter((entry) => entry.waits).length;
  const failed = entries.filter((entry) => entry.error).length;
  const said = [counted(entries.length, "specimen")];
  if (waiting) said.push(`${waiting} being named`);
  if (failed) said.push(`${failed} with an error`);
  find("#status").textContent = entries.length ? said.join(", ") : "";
  find(".tools").hidden = !entries.length;
  find("#empty").hidden = entries.length > 0;
}

function save() {
  const kept = batches.map(({ title, entries }) => ({
    title,
    left: 0,
    entries: entries.filter((entry) => !entry.waits).map(({ file, open, draft, joins, refused, ...entry }) => entry),
  }));
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(kept));
  } catch {
    sessionStorage.removeItem(PLACE); // more than a browser keeps; the page still shows it
  }
}

function warnOfNames(answer) {
  const note = find("#taxa-note");
  const missing = answer.unknown_names;
  note.hidden = !missing.length;
  note.textContent = `Not in the library: ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? ", …" : ""}.`;
}

/** Write what `bioscan-clip identify` writes, at the chosen precision. */
function csv() {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "boolean") return value ? "True" : "False";
    if (typeof value === "number") return String(Number(value.toFixed(4)));
    const text = Array.isArray(value) ? value.join("; ") : value;
    const safe = /^[=+\-@\t]/.test(text) ? `'${text}` : text; // a spreadsheet would compute it
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const entries = batches.flatMap((batch) => batch.entries).filter((entry) => entry.result || entry.error);
  const rows = entries.map(({ id, error, result }) => (result ? accept(result) : { id, error }));
  const columns = facts.columns;
  return [columns, ...rows.map((row) => columns.map((name) => row[name]))]
    .map((row) => `${row.map(cell).join(",")}\n`)
    .join("");
}

function download() {
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  make("a", { href: url, download: "names.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// The crop.

const dialog = find("#cropper");
const slide = (name) => find(`[name=${name}]`, dialog);
let shape; // width and height of the photo
let box; // left, top and side in pixels of the photo

function moveBox(left, top, side) {
  const [width, height] = shape;
  side = Math.max(Math.min(side, width, height), Math.min(width, height) / 20);
  box = [Math.max(0, Math.min(left, width - side)), Math.max(0, Math.min(top, height - side)), side];
  [left, top] = box;
  frameOver(find(".frame", dialog), [left, top, left + side, top + side], shape);
  slide("left").value = width > side ? (1000 * left) / (width - side) : 0;
  slide("top").value = height > side ? (1000 * top) / (height - side) : 0;
  slide("side").value = (1000 * side) / Math.min(width, height);
}

function openCropper(entry) {
  cropped = entry;
  shape = entry.result.photo_size;
  const [left, top, right, bottom] = entry.result.crop || [0, 0, ...shape];
  const image = find("img", dialog);
  image.src = URL.createObjectURL(entry.file);
  const side = Math.min(right - left, bottom - top);
  moveBox((left + right - side) / 2, (top + bottom - side) / 2, side);
  dialog.showModal();
}

function nameCropped(crop) {
  dialog.close();
  cropped.crop = crop;
  run(batches.find((batch) => batch.entries.includes(cropped)), [cropped]);
}

function slid() {
  const [width, height] = shape;
  const side = (Number(slide("side").value) / 1000) * Math.min(width, height);
  moveBox((slide("left").value / 1000) * (width - side), (slide("top").value / 1000) * (height - side), side);
}

function drag(event) {
  if (!event.buttons) return;
  const scale = shape[0] / find("img", dialog).clientWidth;
  moveBox(box[0] + event.movementX * scale, box[1] + event.movementY * scale, box[2]);
}

// Start.

function listen() {
  for (const input of [find("#files"), find("#camera")])
    input.onchange = () => {
      addFiles([...input.files]);
      input.value = "";
    };
  find("#send").onclick = () => {
    const text = find("#barcodes").value;
    if (text.trim()) addBarcodes(text);
    else find("#barcodes").focus();
  };
  let over = 0;
  document.ondragenter = (event) => document.body.classList.toggle("over", (over += 1) > 0 && event.dataTransfer !== null);
  document.ondragleave = () => document.body.classList.toggle("over", (over -= 1) > 0);
  document.ondragover = (event) => event.preventDefault();
  document.ondrop = (event) => {
    event.preventDefault();
    over = 0;
    document.body.classList.remove("over");
    addFiles([...event.dataTransfer.files]);
  };
  document.onpaste = (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) addFiles(files);
    else if (!event.target.closest?.("textarea, input")) find("#barcodes").value = event.clipboardData.getData("text");
  };
  find("#precision").oninput = () => {
    find("#percent").textContent = `${find("#precision").value}%`;
    show();
  };
  find("#precision").onchange = save;
  find("#taxa").onchange = () => (find("#again").hidden = !batches.length);
  find("#again").onclick = () => {
    find("#again").hidden = true;
    for (const batch of batches) run(batch, batch.entries.filter((entry) => entry.file || kindOf(entry) === "barcode"));
  };
  find("#csv").onclick = download;
  find("#clear").onclick = () => {
    batches = [];
    save();
    show();
  };
  for (const name of ["left", "top", "side"]) slide(name).oninput = slid;
  find(".stage", dialog).onpointermove = drag;
  find(".stage", dialog).onpointerdown = (event) => event.currentTarget.setPointerCapture(event.pointerId);
  find("#use-crop").onclick = () => nameCropped([box[0], box[1], box[0] + box[2], box[1] + box[2]].map(Math.round));
  find("#use-all").onclick = () => nameCropped("none");
  find("#leave-crop").onclick = () => dialog.close();
  dialog.onclose = () => URL.revokeObjectURL(find("img", dialog).src);
}

function showFacts() {
  const isCalibrated = Object.keys(facts.calibrated).length > 0;
  find("#sure").hidden = !isCalibrated;
  find("#uncalibrated").hidden = isCalibrated;
  const buttons = facts.examples.map((example) => {
    const image = make("img", { src: photoOf(example.id), alt: "" });
    return make("button", { onclick: () => addExample(example, false) }, image, example.name);
  });
  const withBarcode = facts.examples.find((example) => example.barcode);
  if (withBarcode && facts.takes.includes("barcode"))
    buttons.push(make("button", { className: "sequence", onclick: () => addExample(withBarcode, true) }, `the barcode of ${withBarcode.id}`));
  find(".examples").replaceChildren(...buttons);
  find("#examples").hidden = !buttons.length;
}

async function start() {
  listen();
  facts = await (await fetch("api/library")).json();
  showFacts();
  batches = JSON.parse(sessionStorage.getItem(PLACE) || "[]");
  document.body.dataset.ready = "yes";
  show();
}

start();
