import { ROI_SIDE, ask, askJson, failure, see, sendable, service } from "./service.js";
import { camKey, cells, counted, csv, curl, estimated, outOf100, possible, rule, ruleOf, summary, votesNeeded, why } from "./words.js";

const $ = (id) => document.getElementById(id);

const entries = []; // one for each file, and one more for each further place of a film
let shown = null; // the entry whose answer or film stands on the page
let moved = false; // whether another place of its film was chosen since, and not voted on yet
let model = null; // what GET v1/model said last
let queue = Promise.resolve();

const versions = () => [model?.champion, model?.challenger].filter(Boolean);

/** The description of the version that gave a row; asked again where the page knows of others only. */
async function describedBy(row) {
  const same = (one) => one.model_name === row.model_name && one.model_version === row.model_version;
  if (!model || !same(model.champion)) await loadModel().catch(() => {});
  return versions().find(same) ?? null;
}

async function loadModel() {
  model = await askJson("v1/model");
  hide("access");
  drawModel();
}

/** Fill an entry as far as it can be: what the picture is, then its answer. Trouble stays with the entry. */
async function settle(entry) {
  entry.error = null;
  try {
    if (!model) await loadModel();
    entry.seen ??= await see(entry.file, model.limits);
    if (entry.seen.kind === "film" && !entry.at) return;
    const path = entry.at ? `v1/films?at=${entry.at}&picture=true` : "v1/rois?picture=true";
    [entry.row] = (await askJson(path, entry.file)).rois;
    entry.model = await describedBy(entry.row);
  } catch (trouble) {
    Object.assign(entry, { error: trouble.message, lasting: trouble.lasting });
  }
}

/** Settle entries one after the other, behind those that came before, and show the first that can be shown. */
function work(list) {
  queue = queue.then(async () => {
    let first = null;
    $("answer").hidden = true;
    if (shown?.file !== list[0].file) show(null); // a film stays while its next place is voted
    for (const [index, entry] of list.entries()) {
      say(`${list.length > 1 ? `${index + 1} of ${list.length}: ` : ""}${entry.name} …`);
      await settle(entry);
      drawLine(entry);
      if (!first && !entry.error) show((first = entry), moved && shown?.seen === entry.seen);
    }
    const answered = list.filter((entry) => entry.row).length;
    say(list.length > 1 ? `${answered} of ${list.length} pictures have an answer.` : first ? summary(first) : "");
  });
}

function take(files) {
  const taken = [...files].map((file) => ({ file, name: file.name }));
  add(...taken);
  if (taken.length) work(taken);
}

function add(...more) {
  entries.push(...more);
  more.forEach(drawLine);
  $("answers").hidden = entries.length < 2;
}

// ---- drawing

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const put = (id, text) => { $(id).textContent = text; };
const say = (text) => put("status", text);
const inPng = (base64) => `data:image/png;base64,${base64}`;
const percent = (part, whole) => `${(100 * part) / whole}%`;

/** Hide an element or show it; who was in it goes on at the choice of files. */
function hide(id, hidden = true) {
  if (hidden && $(id).contains(document.activeElement)) $("files").focus();
  $(id).hidden = hidden;
}

/** Put an entry on the page; a film that `stays` keeps the place that was chosen meanwhile. */
function show(entry, stays = false) {
  shown = entry;
  for (const { line } of entries) line.ariaCurrent = line === entry?.line ? "true" : null;
  const film = entry?.seen?.kind === "film";
  $("film-view").hidden = !film;
  $("answer").hidden = !entry?.row;
  if (film && !stays) drawFilm(entry);
  if (!entry?.row) return;
  const { row, model: of } = entry;
  put("name", entry.at ? `${entry.name}, x ${entry.at[0]}, y ${entry.at[1]}` : entry.name);
  put("label", row.label);
  $("label").className = row.label.toLowerCase();
  put("count", counted(row));
  const byVotes = of?.vote.rule !== "mean_score";
  $("filled").style.width = percent(byVotes ? row.vote_share : row.score, 1);
  $("limit").style.left = percent(row.threshold, 1);
  $("limit").classList.toggle("late", row.threshold > 0.5);
  $("limit").dataset.needed = of && byVotes ? `${votesNeeded(row.threshold, of.vote.tie, row.votes.length)} needed` : row.threshold.toFixed(2);
  $("referral").hidden = !row.referral;
  put("why", why(row));
  $("synthetic").hidden = !of?.synthetic;
  put("rule", ruleOf(row, of));
  put("probability", `Of 100 ROIs that the model rates so, ${outOf100(row.probability)} ${Math.round(100 * row.probability) === 1 ? "is" : "are"} Tumor.`);
  put("possible", possible(row, of));
  put("domain", row.in_domain ? "Yes, it is like the ROIs that the model learned from." : `No. It ${row.domain_reason}.`);
  put("version", `${row.model_name} version ${row.model_version}${of ? `, ${of.system}` : ", which the service does not describe"}`);
  put("prediction", row.prediction_id);
  put("curl", curl(entry, service.token));
  $("image").src = inPng(row.picture);
  $("image").alt = `${entry.name} as the model saw it`;
  drawVotes(row, of);
  $("show-cam").checked = false;
  drawCam();
  $("head").scrollIntoView({ block: "nearest" });
}

function drawVotes(row, of) {
  const across = Math.round(Math.sqrt(row.votes.length));
  const even = (index) => [Math.floor(index / across), index % across].map((k) => ((k + 0.5) * ROI_SIDE) / across);
  const centre = (index) => (of ? of.corners_px[index].map((px) => px + of.size_px / 2) : even(index));
  const step = across > 1 ? centre(1)[1] - centre(0)[1] : ROI_SIDE / 2;
  $("square").hidden = true;
  put("patch", "Point at a vote to see its patch.");
  const marks = row.patch_scores.map((score, index) => {
    const vote = row.votes[index] ? "Tumor" : "Normal";
    const words = `row ${Math.floor(index / across) + 1}, column ${(index % across) + 1}: votes ${vote}, score ${score.toFixed(2)}`;
    const mark = make("button", { type: "button", tabIndex: index ? -1 : 0, ariaLabel: words }, make("i", { className: `mark ${vote.toLowerCase()}` }));
    const [top, left] = centre(index);
    Object.assign(mark.style, { top: percent(top, ROI_SIDE), left: percent(left, ROI_SIDE), width: percent(step, ROI_SIDE) });
    mark.firstChild.style.setProperty("--sure", 2 * Math.abs(score - 0.5));
    const choose = () => {
      for (const other of marks) Object.assign(other, { tabIndex: other === mark ? 0 : -1, ariaCurrent: other === mark ? "true" : null });
      put("patch", words[0].toUpperCase() + words.slice(1));
      if (!of) return;
      const [y, x] = of.corners_px[index];
      $("square").hidden = false;
      Object.assign($("square").style, { top: percent(y, ROI_SIDE), left: percent(x, ROI_SIDE), width: percent(of.size_px, ROI_SIDE) });
    };
    mark.onfocus = mark.onclick = mark.onpointerenter = choose;
    return mark;
  });
  $("votes").replaceChildren(...marks);
  $("votes").onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
    const next = marks[marks.indexOf(document.activeElement) + by];
    if (by) event.preventDefault();
    next?.focus();
  };
}

function drawCam() {
  const found = $("show-cam").checked ? shown.cam : null;
  $("cam").hidden = !found;
  put("cam-key", found ? camKey(found) : "");
  if (!found) return;
  $("cam").src = inPng(found.grad_cam_png);
  $("cam").alt = "Grad-CAM laid over the ROI";
}

async function switchCam() {
  const entry = shown;
  if ($("show-cam").checked && !entry.cam) {
    say("Grad-CAM …");
    try {
      const found = await askJson(entry.at ? `v1/explanations?at=${entry.at}` : "v1/explanations", entry.file);
      if (found.prediction_id !== entry.row.prediction_id) {
        throw failure(`version ${found.model_version} serves by now, and this answer is of version ${entry.row.model_version}; choose the picture again`);
      }
      entry.cam = found;
      drawTrouble();
      say("Grad-CAM is drawn.");
    } catch (trouble) {
      say("");
      drawTrouble(`Grad-CAM: ${trouble.message}`);
      if (entry === shown) $("show-cam").checked = false;
    }
  }
  if (entry === shown) drawCam();
}

const toRetry = () => entries.filter((entry) => entry.error && !entry.lasting);

function drawTrouble(...more) {
  const lines = entries.filter((entry) => entry.error).map((entry) => `${entry.name}: ${entry.error}`);
  if (lines.length > 4) lines.splice(3, lines.length, `${lines.length - 3} more have no answer: the table says why`);
  put("error", [...lines, ...more].join("\n"));
  $("error").hidden = !$("error").textContent;
  hide("retry", $("error").hidden || Boolean(model && !toRetry().length));
}

/** The entry's line in the table of all answers. */
function drawLine(entry) {
  const { row, line } = entry;
  const isFilm = entry.seen?.kind === "film"; // it can be shown without an answer
  const name = make("button", { type: "button", className: "link", onclick: () => show(entry), disabled: !entry.seen || Boolean(entry.error && !isFilm) }, entry.name);
  const made = cells(entry).map((text) => make("td", {}, text));
  if (!row) made[1].colSpan = 5;
  entry.line = make("tr", { ariaCurrent: entry === shown ? "true" : null }, make("th", { scope: "row" }, name), ...made);
  if (line) line.replaceWith(entry.line);
  else $("rows").append(entry.line);
  $("save-all").hidden = !entries.some((one) => one.row);
  drawTrouble();
}

function drawModel() {
  const known = versions();
  $("phantom").hidden = !model.champion.synthetic;
  const line = (title, tell) => make("tr", {}, make("th", { scope: "row" }, title), ...known.map((one) => make("td", {}, tell(one))));
  const titles = ["Champion", "Challenger"].slice(0, known.length);
  $("model-head").replaceChildren(make("tr", {}, make("td"), ...titles.map((title) => make("th", { scope: "col" }, title))));
  $("model-rows").replaceChildren(
    line("Version", (one) => `${one.model_name} ${one.model_version}`),
    line("System", (one) => one.system),
    line("Judged on", (one) => (one.synthetic ? `PHANTOM: ${one.data}` : one.data)),
    line("Patches", (one) => `${one.corners_px.length} of ${one.size_px} × ${one.size_px} pixels`),
    line("Rule", rule),
    ...[...new Set(known.flatMap((one) => one.estimates.map(({ name }) => name)))].map((name) => line(name, (one) => estimated(one, name))),
  );
}

// ---- the film: a place is named in its pixels, from its top left, counted from 1

function drawFilm({ name, seen, at }) {
  const { width_px: width, height_px: height } = seen;
  $("film-image").src = inPng(seen.png);
  $("film").ariaLabel = `Film ${name}, ${width} by ${height} pixels`;
  moved = false;
  $("x").max = width;
  $("y").max = height;
  [$("x").value, $("y").value] = at ?? [Math.ceil(width / 2), Math.ceil(height / 2)];
  drawPlace();
  $("film-view").scrollIntoView({ block: "nearest" });
}

function drawPlace() {
  const { width_px: width, height_px: height, roi_px: side } = shown.seen;
  const [x, y] = [$("x").value - 0.5, $("y").value - 0.5];
  $("down").style.left = $("box").style.left = percent(x, width);
  $("across").style.top = $("box").style.top = percent(y, height);
  $("box").hidden = !side;
  if (side) Object.assign($("box").style, { width: percent(side, width), height: percent(side, height) });
}

function movePlace(x, y) {
  const { width_px: width, height_px: height } = shown.seen;
  $("x").value = Math.min(Math.max(x, 1), width);
  $("y").value = Math.min(Math.max(y, 1), height);
  drawPlace();
  moved = true;
  say(`x ${$("x").value}, y ${$("y").value}`);
}

function voteAtPlace() {
  const at = [Number($("x").value), Number($("y").value)];
  const { file, name, seen } = shown;
  const entry = shown.at && !shown.error ? { file, name, seen } : shown;
  Object.assign(entry, { at, error: null });
  moved = false;
  if (entry !== shown) add(entry);
  work([entry]);
}

$("film").onclick = (event) => {
  const { left, top, width, height } = $("film-image").getBoundingClientRect();
  const { width_px, height_px } = shown.seen;
  movePlace(Math.floor(((event.clientX - left) / width) * width_px) + 1, Math.floor(((event.clientY - top) / height) * height_px) + 1);
  voteAtPlace();
};
$("film").onkeydown = (event) => {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!by && event.key !== "Enter") return;
  event.preventDefault();
  if (!by) return voteAtPlace();
  const step = event.shiftKey ? 1 : Math.ceil(Math.max(shown.seen.width_px, shown.seen.height_px) / 100);
  movePlace(Number($("x").value) + by[0] * step, Number($("y").value) + by[1] * step);
};
$("place").oninput = () => { moved = true; drawPlace(); };
$("place").onsubmit = (event) => { event.preventDefault(); voteAtPlace(); };

// ---- export

function save(chosen, kind) {
  const rows = chosen.map(({ name, at, row: { name: _, picture, ...row } }) => ({ file: name, at: at ?? null, ...row }));
  const text = kind === "csv" ? csv(rows) : JSON.stringify(chosen.length > 1 ? rows : rows[0], null, 2);
  const link = make("a", { href: URL.createObjectURL(new Blob([text])), download: `mammo-${chosen.length > 1 ? "answers" : chosen[0].row.prediction_id}.${kind}` });
  link.click();
  URL.revokeObjectURL(link.href);
}

for (const kind of ["json", "csv"]) {
  $(`save-${kind}`).onclick = () => save([shown], kind);
  $(`save-all-${kind}`).onclick = () => save(entries.filter((entry) => entry.row), kind);
}

// ---- what people do

$("files").onchange = ({ target }) => { take(target.files); target.value = ""; }; // or the same file again would be no change
$("example").onclick = async () => {
  try {
    take([new File([await (await ask("v1/example")).blob()], "example.png")]);
  } catch (trouble) {
    drawTrouble(trouble.message);
  }
};
document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
document.ondragleave = () => $("drop").classList.remove("over");
document.ondrop = (event) => { event.preventDefault(); $("drop").classList.remove("over"); take(event.dataTransfer.files); };
$("show-votes").onchange = () => { $("votes").hidden = !$("show-votes").checked; };
$("show-cam").onchange = switchCam;

service.onBusy = (seconds) => say(`The service is busy; trying again in ${seconds} s.`);
service.onLocked = () => { $("access").hidden = false; };

async function start() {
  await loadModel().then(() => drawTrouble(), (trouble) => drawTrouble(trouble.message));
  if (toRetry().length) work(toRetry());
}
$("retry").onclick = start;
$("access").onsubmit = (event) => { event.preventDefault(); service.token = sendable($("token").value); start(); };
start();
