// Requests to the service: patience where it is busy, and words where it fails.

export const ROI_SIDE = 120;
const TRIES = 5;
const PATIENCE_MS = 180_000; // one request that never ends would hold all that wait behind it
const FAILURES = {
  401: "the service wants an access token; enter it above",
  408: "the picture arrived too slowly; send it again",
  413: "the file is larger than the service takes; crop it, or save it without other content",
  429: "the service has had too many requests from here; wait a little, then try again",
  503: "the service is too busy; wait a little, then try again",
};

export const service = {
  token: "",
  onBusy: (seconds) => {},
  onLocked: () => {},
};

/** An error in words; `lasting` where another try is in vain. */
export const failure = (words, lasting = false) => Object.assign(new Error(words), { lasting });

/** A token as it was meant: what is pasted can hold characters that nobody sees, or that no header takes. */
export const sendable = (token) => token.replace(/[^ -~\xa1-\xac\xae-\xff]/g, "").trim();

/** The answer to GET, or to POST of a file; a failure where there is none. */
export async function ask(path, file) {
  const headers = service.token ? { Authorization: `Bearer ${service.token}` } : {};
  const options = { headers };
  if (file) {
    const body = await file.arrayBuffer().catch(() => { throw failure("the file cannot be read any more; choose it again, and of a folder the files in it"); });
    Object.assign(options, { method: "POST", body, headers: { ...headers, "Content-Type": "application/octet-stream" } });
  }
  for (let tries = TRIES; ; tries--) {
    const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(PATIENCE_MS) }).catch(() => {
      throw failure("no answer from the service; nothing is lost: check that it runs, then try again");
    });
    if (answer.ok) return answer;
    if ([429, 503].includes(answer.status) && tries > 1) {
      const seconds = Number(answer.headers.get("Retry-After") ?? 1);
      service.onBusy(seconds);
      await new Promise((resume) => setTimeout(resume, 1000 * seconds));
      continue;
    }
    if (answer.status === 401) service.onLocked();
    const told = await answer.json().catch(() => ({}));
    const words = told.error?.replace(/^body: /, "") ?? FAILURES[answer.status] ?? `the service failed (${answer.status}); its log says why`;
    throw failure(words, [413, 422].includes(answer.status));
  }
}

export const askJson = async (path, file) => (await ask(path, file)).json();

/** What a file's picture is; a failure where the service would refuse it as a ROI and as a film. */
export async function see(file, limits) {
  const most = Math.max(...Object.values(limits));
  if (file.size > most) throw failure(`the file has ${file.size} bytes, the service takes ${most}; crop it, or save it without other content`, true);
  const seen = await askJson("v1/pictures", file);
  const { kind, width_px: width, height_px: height, roi_px: side } = seen;
  if (kind === "film" && Math.max(width, height) <= side) {
    throw failure(`a ROI must be ${ROI_SIDE} × ${ROI_SIDE} pixels, and a film larger than ${Math.floor(side)}, got ${width} × ${height}; crop it anew from its film, or choose the film`, true);
  }
  return seen;
}
