// What the page says about an answer: `row` as POST v1/rois gives it, `of` its version's description or null.

export const nTumor = (row) => row.votes.reduce((sum, vote) => sum + vote, 0);
export const counted = (row) => `${nTumor(row)} of ${row.votes.length} patches ${nTumor(row) === 1 ? "votes" : "vote"} Tumor`;

export function summary({ name, row }) {
  if (!row) return `${name} is a film: choose a place.`;
  return `${name}: ${row.label}. ${counted(row)}.${row.referral ? " A reader has to decide." : ""}`;
}

/** An entry's cells in the table of all answers: two where it has no answer. */
export function cells({ at, row, seen, error }) {
  const place = at?.join(", ") ?? "";
  if (!row) return [place, error ? `no answer: ${error}` : seen && !at ? "a film: choose a place" : "waits"];
  return [place, row.label, `${nTumor(row)} of ${row.votes.length}`, outOf100(row.probability), row.referral ? "has to decide" : "", row.model_version];
}

export function outOf100(probability) {
  const of100 = Math.round(100 * probability);
  return of100 < 1 ? "fewer than 1" : of100 > 99 ? "more than 99" : `about ${of100}`;
}

/** How many of n votes make a ROI Tumor; undefined where no number does. */
export function votesNeeded(threshold, tie, n) {
  const enough = (k) => (Math.abs(k / n - threshold) < 1e-9 ? tie === "tumor" : k / n > threshold);
  return Array.from({ length: n + 1 }, (_, k) => k).find(enough);
}

export function origin(vote) {
  if (vote.threshold === "validation") return "chosen on validation data";
  return vote.share_threshold === 0.5 ? "one half" : "fixed beforehand";
}

/** The rule of a version, in short. */
export const rule = ({ vote, corners_px }) => vote.rule === "majority"
  ? `Tumor from ${votesNeeded(vote.share_threshold, vote.tie, corners_px.length) ?? "more than all"} of ${corners_px.length} votes (${origin(vote)})`
  : `Tumor from a mean score of ${vote.share_threshold.toFixed(2)} (${origin(vote)})`;

/** How well a version did by a metric, with the interval. */
export function estimated({ estimates }, name) {
  const found = estimates.find((estimate) => estimate.name === name);
  if (found?.value == null) return "not known";
  const interval = found.ci_low == null ? "no interval" : `${found.ci_low.toFixed(2)} to ${found.ci_high.toFixed(2)}`;
  return `${found.value.toFixed(2)} (${interval}), ${found.n} ROIs`;
}

/** Which rule decided, and why the label may differ from the plain majority and from the probability. */
export function ruleOf(row, of) {
  if (!of) return `A threshold of ${row.threshold.toFixed(2)}. The service does not describe this version, so its rule is not known here.`;
  const n = row.votes.length;
  const majority = row.vote_share > 0.5 ? "Tumor" : row.vote_share < 0.5 ? "Normal" : row.label;
  const limit = `${row.threshold.toFixed(2)}, ${origin(of.vote)}`;
  let words;
  if (of.vote.rule === "majority") {
    const needed = votesNeeded(row.threshold, of.vote.tie, n);
    words = `The votes, against a threshold (${limit}): ${needed ?? "more than all"} of ${n} are enough for Tumor, and this ROI has ${nTumor(row)}.`;
  } else {
    words = `The mean score of the patches, ${row.score.toFixed(2)}, against a threshold (${limit}); the number of votes does not decide.`;
  }
  if (majority !== row.label) words += ` So the label is ${row.label}, though more than half of the patches vote ${majority}.`;
  const likelier = row.probability > 0.5 ? "Tumor" : "Normal";
  if (likelier !== row.label) words += ` The probability does not decide: taken alone it would say ${likelier}.`;
  return words;
}

export function possible(row, of) {
  const share = of ? ` (it holds in ${Math.round(100 * of.coverage)} of 100 ROIs like those of the validation data)` : "";
  const left = row.prediction_set.length > 1 ? "Normal and Tumor both remain possible: a reader has to decide" : `only ${row.prediction_set[0]} remains possible`;
  return `At the level of certainty that this model promises${share}, ${left}.`;
}

export function why(row) {
  if (!row.in_domain) return `The model never learned from such a picture, so do not rely on the label: it ${row.domain_reason}.`;
  return "The model cannot rule out either class.";
}

/** What Grad-CAM shows: its sign means something only where it is that of the network's own logits. */
export function camKey({ block, n_agreeing: agreeing, n_patches: n }) {
  const of = block === "all" ? "all blocks" : block;
  const care = agreeing < 0.8 * n ? "; that is too few to read classes from it" : "";
  return `Grad-CAM of ${of}: red speaks for Tumor, hatched blue for Normal. Its sign is that of the network's logit in ${agreeing} of ${n} patches${care}.`;
}

/** The shell command that gets the same answer. */
export function curl({ name, at }, token) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const path = new URL(at ? `v1/films?at=${at}` : "v1/rois", document.baseURI).href;
  const locked = token ? ' --header "Authorization: Bearer $MAMMO_SERVE_TOKEN"' : "";
  return `curl --data-binary ${quoted(`@./${name}`)} --header 'Content-Type: application/octet-stream' ${quoted(path)}${locked}`;
}

/** Rows as CSV; lists become words with blanks between them. */
export function csv(rows) {
  const cell = (value) => {
    const text = Array.isArray(value) ? value.join(" ") : String(value ?? "");
    const formula = typeof value === "string" && /^[=+\-@\t\r]/.test(text); // a table program would run it
    return `"${formula ? "'" : ""}${text.replaceAll('"', '""')}"`;
  };
  const columns = [...new Set(rows.flatMap(Object.keys))]; // versions of earlier code have fewer
  return [columns, ...rows.map((row) => columns.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\r\n");
}
