// What the figures of a store show: which requests that takes, and the colours they give.

import { useMemo, useRef } from "preact/hooks";

import type { Address } from "./address";
import { extent, greyGradient, scaled, scaleGradient, type Layer } from "./painting";
import { call, useAnswers, type Problem } from "./requests";
import type {
  Answered,
  Captioned,
  Colours,
  Diff,
  Entailed,
  Heat,
  RunInfo,
  Session,
  Similar,
  StoreInfo,
  StoredRecord,
} from "./types";

export type Kind = "pca" | "norms" | "channel" | "similar" | "text" | "diff" | "attention";

/** The value of `show`: a kind, and for `channel:17` and `attention:r0:2` what follows it. */
export interface Choice {
  kind: Kind;
  channel: number;
  run: string;
  part: number;
}

export function parseShow(show: string): Choice {
  const [kind = "", first = "", second = ""] = show.split(":");
  const number = (text: string) => (/^\d{1,6}$/.test(text) ? Number(text) : 0);
  const found = (["norms", "channel", "similar", "text", "diff", "attention"] as const).find(
    (name) => name === kind,
  );
  return { kind: found ?? "pca", channel: number(first), run: first, part: number(second) };
}

export const attentionOf = (run: RunInfo, part: number): string => `attention:${run.key}:${part}`;

/** The request that a run answers about an image; null while something is missing. */
export function runCall(run: RunInfo, address: Address): string | null {
  const values = { run: run.key, id: address.id };
  if (!address.id) return null;
  if (run.task === "vqa" && address.question)
    return call("answer", { ...values, question: address.question });
  if (run.task === "ve" && address.hypothesis)
    return call("entail", { ...values, hypothesis: address.hypothesis });
  if (run.task === "caption" && address.caption) return call("caption", values);
  return null;
}

/** The weights of the cells in one glimpse, or at one word. */
function attentionIn(answer: Answered | Captioned | Entailed, part: number): number[] | null {
  if ("words" in answer) return answer.words[part]?.attention ?? null;
  return answer.attention?.[part] ?? null;
}

export interface Source {
  id: string;
  cell: number;
}

export interface Shown {
  layers: Map<string, Layer>; // by id
  scale: [low: number, high: number] | null;
  gradient: string; // of the scale, as CSS
  quantity: string; // what the numbers are; empty where there are none
  note: string;
  problems: { url: string; problem: Problem }[];
  loading: boolean;
}

const share = (part: number) => `${Math.round(100 * part)}\u00a0%`;

function planned(
  choice: Choice,
  store: StoreInfo,
  session: Session,
  address: Address,
  ids: readonly string[],
  source: Source | null,
): string[] {
  switch (choice.kind) {
    case "pca":
    case "channel": {
      const show = choice.kind === "pca" ? "pca" : `channel:${choice.channel}`;
      return ids.map((id) => call("colours", { store: store.key, id, show }));
    }
    case "similar": {
      if (!source) return [];
      const others = ids.filter((id) => id !== source.id);
      return [call("similar", { store: store.key, id: source.id, cell: source.cell, others })];
    }
    case "text":
      if (!address.text || !store.text.can) return [];
      return ids.map((id) => call("text", { store: store.key, id, text: address.text }));
    case "diff":
      return address.id ? [call("diff", { id: address.id })] : [];
    case "attention": {
      const run = session.runs.find((one) => one.key === choice.run);
      const url = run?.store === store.key ? runCall(run, address) : null;
      return url ? [url] : [];
    }
    default:
      return [];
  }
}

/** What to show of images of a store; `source` is the cell that others are compared with. */
export function useShown(
  choice: Choice,
  store: StoreInfo,
  session: Session,
  address: Address,
  ids: readonly string[],
  records: ReadonlyMap<string, StoredRecord>,
  source: Source | null,
): Shown {
  const urls = planned(choice, store, session, address, ids, source);
  const answers = useAnswers<unknown>(urls);
  const values = answers.map((answer) => answer.value);
  const problems = answers.flatMap(({ problem }, k) =>
    problem ? [{ url: urls[k] as string, problem }] : [],
  );

  const loading = answers.some((answer) => answer.loading);
  const shown = useMemo((): Omit<Shown, "problems" | "loading"> => {
    const layers = new Map<string, Layer>();
    const numbers = new Map<string, readonly (number | null)[]>();
    const each = <T>(then: (value: T, id: string) => void) =>
      ids.forEach((id, k) => values[k] && then(values[k] as T, id));
    let scale: [number, number] | null = null;
    let note = "";
    const drawn = (quantity: string, ends: { low?: number; high?: number } = {}) => {
      const shownIds = [...numbers.keys()];
      const masks = shownIds.map((id) => records.get(id)?.mask ?? null);
      const found = extent([...numbers.values()], masks);
      scale = found && [ends.low ?? found[0], ends.high ?? found[1]];
      const [low, high] = scale ?? [0, 1];
      numbers.forEach((row, id) =>
        layers.set(id, {
          rgb: row.map((value) => (value === null ? null : scaled(value, low, high))),
          values: row,
        }),
      );
      return { layers, scale, gradient: scaleGradient, quantity, note };
    };
    switch (choice.kind) {
      case "pca":
        each<Colours>(({ rgb, explained }, id) => {
          layers.set(id, { rgb, values: null });
          if (explained)
            note =
              "Red, green and blue are the first three principal components of the store's " +
              `standardised channels: ${explained.map(share).join(", ")} of the variance`;
        });
        return { layers, scale: null, gradient: "", quantity: "", note };
      case "channel":
        each<Colours>(({ rgb, range }, id) => {
          layers.set(id, { rgb, values: null });
          if (range && id === address.id) scale = range;
        });
        note = "Black to white over the numbers of each grid";
        return {
          layers,
          scale,
          gradient: greyGradient,
          quantity: `channel ${choice.channel}`,
          note,
        };
      case "norms":
        records.forEach((record, id) => numbers.set(id, record.norms));
        return drawn("norm");
      case "similar":
        if (!source) note = "Point at a cell, or go to one with the arrow keys";
        else {
          const found = values[0] as Similar | null | undefined;
          Object.entries(found?.similar ?? {}).forEach(([id, row]) => numbers.set(id, row));
          note = Object.entries(found?.missing ?? {})
            .map(([id, why]) => `${id}: ${why}`)
            .join("; ");
        }
        return drawn("similarity", { high: 1 });
      case "text":
        note = store.text.can ? (address.text ? "" : "Type a text above") : store.text.why;
        each<Heat>(({ heat, says }, id) => {
          numbers.set(id, heat);
          note = says;
        });
        return drawn("similarity to the text");
      case "diff": {
        const found = values[0] as Diff | null | undefined;
        if (found?.cosine) numbers.set(address.id, found.cosine);
        return drawn("cosine of both stores", { high: 1 });
      }
      case "attention": {
        const run = session.runs.find((one) => one.key === choice.run);
        if (!run) note = `There is no run ${choice.run}`;
        else if (run.store !== store.key) note = `${run.folder} reads store ${run.store}`;
        else if (values[0]) {
          const row = attentionIn(values[0] as Answered | Captioned | Entailed, choice.part);
          if (row) numbers.set(address.id, row);
          else note = "The run has no attention over the cells here";
        } else if (urls.length === 0) note = "Ask the run something first";
        return drawn("attention", { low: 0 });
      }
    }
  }, [
    choice.kind,
    choice.channel,
    choice.run,
    choice.part,
    store,
    address.text,
    source?.id,
    source?.cell,
    ...ids,
    ...records.values(),
    ...values,
  ]);

  // While the pointer moves, the last similarities stay until the next ones come.
  const last = useRef({ ids: "", shown });
  const held = choice.kind === "similar" && loading && last.current.ids === ids.join("\n");
  if (!held) last.current = { ids: ids.join("\n"), shown };
  return { ...last.current.shown, problems, loading };
}
