// Requests to the server, each asked once and kept while the page needs it.

import { useEffect, useReducer } from "preact/hooks";

import { answerFromSample, Refusal, SAMPLE } from "./sample";
import type { StoredRecord } from "./types";

export interface Problem {
  text: string;
  code: string;
  passing: boolean; // the same request may succeed later
}

export interface Answer<T> {
  value: T | null;
  problem: Problem | null;
  loading: boolean;
}

type Values = Record<string, string | number | readonly string[] | null | undefined>;

const KEPT = 600; // answers; the least recently used is dropped first
const NOTHING: Answer<never> = { value: null, problem: null, loading: false };
const LOADING: Answer<never> = { value: null, problem: null, loading: true };
const answers = new Map<string, Answer<unknown>>();
const listeners = new Set<(url: string) => void>();

/** The address of a call; what is null or an empty text is left out. */
export function call(name: string, values: Values = {}): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) {
    if (Array.isArray(value)) value.forEach((item: string) => query.append(key, item));
    else if (value !== null && value !== undefined && value !== "") query.set(key, String(value));
  }
  const text = query.toString();
  return text ? `api/${name}?${text}` : `api/${name}`;
}

/** The address of the image of a record. */
export function imageOf(store: string, record: StoredRecord): string {
  return record.image ?? call("image", { store, id: record.id });
}

async function load(url: string): Promise<Answer<unknown>> {
  if (SAMPLE !== null && url.startsWith("api/"))
    return answerFromSample(url).then(
      (value) => ({ value, problem: null, loading: false }),
      (error: unknown) =>
        error instanceof Refusal
          ? failed(error.message, "", false)
          : failed("A file of this page cannot be loaded", "", true),
    );
  let response: Response;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" } });
  } catch {
    return failed("The server does not answer. Is clipfeat view still running?", "", true);
  }
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  if (response.ok && !isJson) return { value: true, problem: null, loading: false }; // an image
  try {
    const body: unknown = await response.json();
    if (response.ok) return { value: body, problem: null, loading: false };
    const { error, code } = body as { error?: unknown; code?: unknown };
    const text = typeof error === "string" ? error : `The server answered ${response.status}`;
    return failed(text, typeof code === "string" ? code : "", response.status >= 500);
  } catch {
    return failed(`The server answered ${response.status} without a text`, "", true);
  }
}

function failed(text: string, code: string, passing: boolean): Answer<never> {
  return { value: null, problem: { text, code, passing }, loading: false };
}

function keep(url: string, answer: Answer<unknown>): void {
  answers.delete(url);
  answers.set(url, answer);
  for (const old of answers.keys()) {
    if (answers.size <= KEPT) break;
    answers.delete(old);
  }
}

/** Start a request unless its answer is known or on its way. */
export function ask(url: string): void {
  const known = answers.get(url);
  if (known && !known.problem?.passing) return;
  keep(url, LOADING);
  void load(url).then((answer) => {
    keep(url, answer);
    listeners.forEach((listener) => listener(url));
  });
}

/** Ask again what had a problem: this request, and all others, whose cause may be the same. */
export function askAgain(url: string): void {
  const others = [...answers].filter(([, answer]) => answer.problem).map(([other]) => other);
  for (const each of new Set([url, ...others])) {
    answers.delete(each);
    ask(each);
    listeners.forEach((listener) => listener(each));
  }
}

/** The answers to some requests, in their order; null asks for nothing. */
export function useAnswers<T>(urls: readonly (string | null)[]): Answer<T>[] {
  const [, redraw] = useReducer((count: number, _: void) => count + 1, 0);
  const key = urls.join("\n");
  useEffect(() => {
    const asked = new Set(urls.filter((url) => url !== null));
    const listener = (url: string) => {
      if (asked.has(url)) redraw();
    };
    listeners.add(listener);
    asked.forEach(ask);
    redraw(); // an answer may have come between drawing and listening
    return () => void listeners.delete(listener);
  }, [key]);
  return urls.map((url) => {
    if (url === null) return NOTHING;
    const known = answers.get(url);
    if (!known) return LOADING;
    keep(url, known);
    return known as Answer<T>;
  });
}

export function useAnswer<T>(url: string | null): Answer<T> {
  return useAnswers<T>([url])[0] as Answer<T>;
}
