// Small parts that all panels use.

import { Component, type ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { go, write, type Address, type Change } from "./address";
import { askAgain, type Problem } from "./requests";

/** A number for people: three digits, without an exponent where that can be avoided. */
export const short = (value: number): string => String(Number(value.toPrecision(3)));
export const whole = (value: number): string => value.toLocaleString("en");

export const counted = (count: number, what: string): string =>
  `${whole(count)} ${what}${count === 1 ? "" : "s"}`;

/** What went wrong, in the place where the answer would be. */
export function Trouble({
  problem,
  url,
  about,
}: {
  problem: Problem;
  url: string;
  about?: string;
}) {
  return (
    <div class="trouble" role="alert">
      <p>
        {about && <strong>{about}: </strong>}
        {problem.text} {problem.code && <code>{problem.code}</code>}
      </p>
      <button type="button" onClick={() => askAgain(url)}>
        Try again
      </button>
    </div>
  );
}

/** Keeps a fault of one panel from taking the page with it. */
export class Fenced extends Component<
  { name: string; children: ComponentChildren },
  { fault: string }
> {
  override state = { fault: "" };

  override componentDidCatch(error: unknown): void {
    this.setState({ fault: error instanceof Error ? error.message : String(error) });
  }

  override render() {
    if (!this.state.fault) return this.props.children;
    return (
      <div class="trouble" role="alert">
        <p>
          {this.props.name} cannot be shown: {this.state.fault}
        </p>
        <button type="button" onClick={() => this.setState({ fault: "" })}>
          Try again
        </button>
      </div>
    );
  }
}

/** A link to another state of the page, which other windows can open, too. */
export function To({
  address,
  change,
  children,
  ...rest
}: {
  address: Address;
  change: Change;
  children: ComponentChildren;
  class?: string;
  title?: string;
}) {
  const follow = (event: MouseEvent) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    go(change);
  };
  return (
    <a {...rest} href={write({ ...address, ...change })} onClick={follow}>
      {children}
    </a>
  );
}

let speak: (text: string) => void = () => undefined;

/** Tell a screen reader what came. */
export const say = (text: string): void => speak(text);

/** Say a text whenever it changes. */
export function useSaid(text: string): void {
  useEffect(() => {
    if (text) say(text);
  }, [text]);
}

export function LiveRegion() {
  const [text, setText] = useState("");
  const timer = useRef(0);
  speak = (next) => {
    clearTimeout(timer.current); // of several at once, the last one
    timer.current = setTimeout(() => setText(next), 150);
  };
  return (
    <div class="unseen" role="status" aria-live="polite">
      {text}
    </div>
  );
}

/** A value that follows another one when it has stayed the same for some milliseconds. */
export function useSettled<T>(value: T, key: string, wait: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(() => value), wait);
    return () => clearTimeout(timer);
  }, [key, wait]);
  return settled;
}

/** A field whose text goes into the address when the form is sent. */
export function Ask({
  label,
  button,
  value,
  onAsk,
  placeholder,
}: {
  label: string;
  button: string;
  value: string;
  onAsk: (text: string) => void;
  placeholder?: string;
}) {
  const field = useRef<HTMLInputElement>(null);
  const send = (event: Event) => {
    event.preventDefault();
    onAsk(field.current?.value.trim() ?? "");
  };
  return (
    <form class="ask" onSubmit={send}>
      <label>
        <span>{label}</span>
        <input
          key={value}
          ref={field}
          defaultValue={value}
          placeholder={placeholder ?? ""}
          maxLength={500}
          autocomplete="off"
        />
      </label>
      <button type="submit">{button}</button>
    </form>
  );
}

/** A share of one as a bar with its number. */
export function Bar({ share, text }: { share: number; text: string }) {
  const width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return (
    <span class="bar">
      <span class="bar-track" aria-hidden="true">
        <span style={{ width }} />
      </span>
      <span class="number">{text}</span>
    </span>
  );
}

/** An id that loses its middle where it does not fit: ends tell ids apart. */
export function Id({ text }: { text: string }) {
  const tail = text.length > 16 ? 12 : 0;
  return (
    <span class="id">
      <span>{text.slice(0, text.length - tail)}</span>
      {tail > 0 && <span>{text.slice(-tail)}</span>}
    </span>
  );
}
