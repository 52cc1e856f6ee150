// The state of the page is the query of its address, so that an address shows what its sender saw.

import { useEffect, useReducer } from "preact/hooks";

export const SIDES = ["near", "runs", "compare"] as const;
export type Side = (typeof SIDES)[number];

export interface Address {
  store: string;
  id: string;
  show: string; // see shown.ts
  cell: number | null; // the chosen one
  beside: string; // another store's key, "none", or "" for the next store where there is one
  over: number | null; // per cent of the grid over the image; null is beside it
  pins: readonly string[]; // other images whose grids are shown
  search: string;
  status: string;
  shape: string;
  text: string;
  question: string;
  hypothesis: string;
  caption: boolean;
  runs: readonly string[]; // the two that are compared
  side: Side;
}

export type Change = Partial<Address>;
const TEXTS = [
  "store",
  "id",
  "show",
  "beside",
  "search",
  "status",
  "shape",
  "text",
  "question",
  "hypothesis",
] as const;
export const PINS = 8; // more thumbnails than this help nobody, and every one costs requests
const listeners = new Set<() => void>();

function whole(text: string | null, most: number): number | null {
  return text !== null && /^\d{1,7}$/.test(text) ? Math.min(Number(text), most) : null;
}

export function parse(query: string): Address {
  const values = new URLSearchParams(query);
  const side = SIDES.find((name) => name === values.get("side")) ?? "near";
  const texts = Object.fromEntries(TEXTS.map((name) => [name, values.get(name) ?? ""]));
  return {
    ...(texts as Record<(typeof TEXTS)[number], string>),
    cell: whole(values.get("cell"), 9_999_999),
    over: whole(values.get("over"), 100),
    pins: [...new Set(values.getAll("pin"))].slice(0, PINS),
    runs: values.getAll("run").slice(0, 2),
    caption: values.get("caption") === "1",
    side,
  };
}

export function write(address: Address): string {
  const values = new URLSearchParams();
  for (const name of TEXTS) if (address[name] !== "") values.set(name, address[name]);
  if (address.cell !== null) values.set("cell", String(address.cell));
  if (address.over !== null) values.set("over", String(address.over));
  address.pins.forEach((id) => values.append("pin", id));
  address.runs.forEach((run) => values.append("run", run));
  if (address.caption) values.set("caption", "1");
  if (address.side !== "near") values.set("side", address.side);
  const text = values.toString();
  return text ? `?${text}` : location.pathname;
}

let current = parse(location.search);

/** Change the address: a step that "back" undoes, unless it only refines the one before. */
export function go(change: Change, how: "step" | "refine" = "step"): void {
  const next = { ...current, ...change };
  if (write(next) === write(current)) return;
  current = next;
  if (how === "step") history.pushState(null, "", write(next));
  else history.replaceState(null, "", write(next));
  listeners.forEach((listener) => listener());
}

/** What opening another image changes: the chosen cell stays where cells are compared. */
export function opened(address: Address, id: string): Change {
  return { id, cell: address.show === "similar" ? address.cell : null };
}

addEventListener("popstate", () => {
  current = parse(location.search);
  listeners.forEach((listener) => listener());
});

export function useAddress(): Address {
  const [, redraw] = useReducer((count: number, _: void) => count + 1, 0);
  useEffect(() => {
    const listener = () => redraw();
    listeners.add(listener);
    redraw();
    return () => void listeners.delete(listener);
  }, []);
  return current;
}
