// Server-sent events, read with fetch: unlike EventSource it shows the status of a refusal and
// the heartbeats, so that a connection that is dead without a word is noticed.

// The server sends a comment every 15 s.
const SILENT_MS = 40_000;
const FIRST_WAIT_MS = 1_000;
const MOST_WAIT_MS = 20_000;
// A line is one event; the server's queue is 1 MiB.
const MOST_LINE = 2 << 20;

/**
 * Follow events until `close()`.
 *
 * `onEvent(event)`, `onState(isLive, why)`; `onGap()`: events were missed while it was away.
 */
export function follow(query, { onEvent, onState, onGap }) {
  let isClosed = false;
  let lastId = "";
  let wait = FIRST_WAIT_MS;
  let abort = new AbortController();
  let wake = () => {};

  async function once() {
    abort = new AbortController();
    const headers = lastId ? { "Last-Event-ID": lastId } : {};
    let timer = setTimeout(() => abort.abort(), SILENT_MS);
    try {
      const answer = await fetch(`/api/v1/events${query}`, { headers, signal: abort.signal, cache: "no-store" });
      if (!answer.ok) return answer.status;
      wait = FIRST_WAIT_MS;
      onState(true, "");
      const lines = new Lines();
      const decoder = new TextDecoder();
      for (const reader = answer.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) return 0;
        clearTimeout(timer);
        timer = setTimeout(() => abort.abort(), SILENT_MS);
        for (const event of lines.take(decoder.decode(value, { stream: true }))) {
          if (event.id) lastId = event.id;
          if (event.kind === "missed") onGap();
          else onEvent(event);
        }
      }
    } catch {
      return 0;
    } finally {
      clearTimeout(timer);
    }
  }

  async function run() {
    while (!isClosed) {
      const status = await once();
      if (isClosed) return;
      onState(false, status === 503 ? "too many readers" : status ? `the server answered ${status}` : "the connection is lost", status);
      if (status === 401) return;
      // Browsers that lost the same server do not all come back in the same moment.
      const pause = wait * (0.7 + 0.6 * Math.random());
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, pause);
      });
      wait = Math.min(wait * 2, MOST_WAIT_MS);
    }
  }

  const hurry = () => {
    wait = FIRST_WAIT_MS;
    wake();
  };
  window.addEventListener("online", hurry);
  run();
  return {
    close() {
      isClosed = true;
      window.removeEventListener("online", hurry);
      abort.abort();
      wake();
    },
    hurry,
  };
}

/** The lines of a stream, put together again. */
class Lines {
  #rest = "";

  *take(text) {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop();
    if (this.#rest.length > MOST_LINE) throw new Error("an event without end");
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      yield JSON.parse(line.slice(5));
    }
  }
}
