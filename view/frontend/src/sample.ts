// Answers of a static page, which has no server: computed here from the files of its sample.

import type { Colours, Diff, IdPage, IdRow, Session, Similar, StoredRecord } from "./types";

interface SampledId extends IdRow {
  n: number; // of its file
}

interface RecordFile {
  record: StoredRecord;
  colours: Colours; // of the principal components
  features: { dtype: "float16"; shape: [cells: number, dim: number]; base64: string };
  image: string | null;
}

interface Features {
  cells: number;
  dim: number;
  values: Float32Array; // cell by cell
}

/** What a request has no answer to, as the server would say it. */
export class Refusal extends Error {}

const meta = document.querySelector<HTMLMetaElement>('meta[name="clipfeat-data"]');
/** Where the files of the sample are; null where a server answers. */
export const SAMPLE = meta?.content ?? null;

const files = new Map<string, Promise<unknown>>();
const KEPT = 60; // files of features, which may have a megabyte each

function file<T>(path: string): Promise<T> {
  let known = files.get(path);
  if (!known) {
    known = fetch(`${SAMPLE}${path}`).then((response) => {
      if (!response.ok)
        throw new Refusal(`${path} of this page cannot be read: ${response.status}`);
      return response.json() as Promise<unknown>;
    });
    known.catch(() => files.delete(path)); // it may be there when it is asked for again
    files.set(path, known);
    const oldest = [...files.keys()].find((name) => /\d\.json$/.test(name));
    if (files.size > KEPT && oldest) files.delete(oldest);
  }
  return known as Promise<T>;
}

const sampled = async (store: string): Promise<SampledId[]> =>
  (await file<{ ids: SampledId[] }>(`${store}/ids.json`)).ids;

async function recordFile(store: string, id: string): Promise<RecordFile> {
  const found = (await sampled(store)).find((row) => row.id === id);
  if (!found) throw new Refusal(`The sample of store ${store} has no image id ${id}`);
  return file<RecordFile>(`${store}/${found.n}.json`);
}

/** The number of 16 bits of IEEE 754: a sign, 5 bits of exponent, 10 of fraction. */
export function half(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
  const size =
    exponent === 0
      ? fraction * 2 ** -24
      : exponent === 31
        ? fraction
          ? NaN
          : Infinity
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
  return bits & 0x8000 ? -size : size;
}

function decoded({
  features: {
    shape: [cells, dim],
    base64,
  },
}: RecordFile): Features {
  const text = atob(base64);
  const bits = (k: number) => text.charCodeAt(2 * k) | (text.charCodeAt(2 * k + 1) << 8);
  return {
    cells,
    dim,
    values: Float32Array.from({ length: cells * dim }, (_, k) => half(bits(k))),
  };
}

/** The cosine of a cell of one grid with a cell of another; null where it is not a number. */
function cosine(a: Features, i: number, b: Features, j: number): number | null {
  let [dot, one, other] = [0, 0, 0];
  for (let k = 0; k < a.dim; k++) {
    const x = a.values[i * a.dim + k] as number;
    const y = b.values[j * b.dim + k] as number;
    dot += x * y;
    one += x * x;
    other += y * y;
  }
  if (one === 0 || other === 0) return one === other ? 1 : 0;
  const value = dot / Math.sqrt(one) / Math.sqrt(other);
  return Number.isFinite(value) ? value : null;
}

async function ids(store: string, query: URLSearchParams): Promise<IdPage> {
  const search = (query.get("search") ?? "").toLowerCase();
  const [status, shape] = [query.get("status"), query.get("shape")];
  const found = (await sampled(store)).filter(
    (row) =>
      row.id.toLowerCase().includes(search) &&
      (!status || row.status === status) &&
      (!shape || row.shape?.join("x") === shape),
  );
  const start = Number(query.get("start") ?? 0);
  return {
    total: found.length,
    start,
    ids: found.slice(start, start + Number(query.get("count") ?? 100)),
  };
}

async function colours(store: string, id: string, show: string): Promise<Colours> {
  const found = await recordFile(store, id);
  if (!show.startsWith("channel:")) return found.colours;
  const { cells, dim, values } = decoded(found);
  const channel = Number(show.slice("channel:".length));
  if (!(channel < dim)) throw new Refusal(`Channels are 0 to ${dim - 1}; got ${channel}`);
  const shown = Array.from({ length: cells }, (_, cell) => values[cell * dim + channel] as number);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const rgb = shown.map((value): [number, number, number] => {
    const grey = Math.round((255 * (value - low)) / Math.max(high - low, 1e-12));
    return [grey, grey, grey];
  });
  return { rgb, range: [low, high], explained: null };
}

async function similar(store: string, query: URLSearchParams): Promise<Similar> {
  const id = query.get("id") ?? "";
  const cell = Number(query.get("cell"));
  const from = decoded(await recordFile(store, id));
  if (!(cell < from.cells))
    throw new Refusal(`${id} has ${from.cells} cells; there is no cell ${cell}`);
  const answer: Similar = { similar: {}, missing: {} };
  for (const other of [id, ...query.getAll("others")]) {
    try {
      const to = other === id ? from : decoded(await recordFile(store, other));
      answer.similar[other] = Array.from({ length: to.cells }, (_, k) => cosine(from, cell, to, k));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      answer.missing[other] = error.message;
    }
  }
  return answer;
}

async function diff(id: string): Promise<Diff> {
  const [first, second] = [await recordFile("a", id), await recordFile("b", id)];
  const [a, b] = [decoded(first), decoded(second)];
  const [one, other] = [first.record.shape, second.record.shape];
  const answer: Diff = {
    same: false,
    shape: [one, other],
    largest: null,
    relative_error: null,
    cosine: null,
    why: null,
  };
  if (a.dim !== b.dim) return { ...answer, why: `the stores have ${a.dim} and ${b.dim} channels` };
  if (one?.join("x") !== other?.join("x"))
    return { ...answer, why: `the grids are ${one?.join("x")} and ${other?.join("x")}` };
  answer.cosine = Array.from({ length: a.cells }, (_, cell) => cosine(a, cell, b, cell));
  answer.largest = a.values.reduce(
    (most, x, k) => Math.max(most, Math.abs(x - (b.values[k] as number))),
    0,
  );
  answer.same = answer.largest === 0;
  return answer;
}

/** Answer a call as the server would; throws Refusal for what a sample cannot answer. */
export async function answerFromSample(url: string): Promise<unknown> {
  const [path = "", text = ""] = url.split("?");
  const query = new URLSearchParams(text);
  const [store, id] = [query.get("store") ?? "", query.get("id") ?? ""];
  switch (path) {
    case "api/session":
      return file<Session>("session.json");
    case "api/ids":
      return ids(store, query);
    case "api/record": {
      const { record, image } = await recordFile(store, id);
      return { ...record, image };
    }
    case "api/colours":
      return colours(store, id, query.get("show") ?? "pca");
    case "api/similar":
      return similar(store, query);
    case "api/diff":
      return diff(id);
    default:
      throw new Refusal("This page is a sample without a server; clipfeat view answers this");
  }
}
