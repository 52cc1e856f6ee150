// What trained runs say about the image: answers, a caption, or the chances of an entailment.

import { go, type Address } from "./address";
import { Ask, Bar, short, To, Trouble, useSaid } from "./parts";
import { useAnswer } from "./requests";
import { attentionOf, runCall } from "./shown";
import type { Answered, Captioned, Entailed, RunInfo, Session } from "./types";

export function Runs({ session, address }: { session: Session; address: Address }) {
  const of = (task: string) => session.runs.filter((run) => run.task === task);
  const others = session.runs.filter(({ task }) => !["vqa", "ve", "caption"].includes(task));
  return (
    <>
      {of("vqa").length > 0 && (
        <section aria-labelledby="ask">
          <h2 id="ask">Questions</h2>
          <Ask
            label="Question"
            button="Ask"
            value={address.question}
            placeholder="What colour is it?"
            onAsk={(question) => go({ question })}
          />
          <Each runs={of("vqa")} address={address} />
        </section>
      )}
      {of("ve").length > 0 && (
        <section aria-labelledby="entail">
          <h2 id="entail">Entailment</h2>
          <Ask
            label="Hypothesis"
            button="Judge"
            value={address.hypothesis}
            placeholder="Two people are outside."
            onAsk={(hypothesis) => go({ hypothesis })}
          />
          <Each runs={of("ve")} address={address} />
        </section>
      )}
      {of("caption").length > 0 && (
        <section aria-labelledby="caption">
          <h2 id="caption">Captions</h2>
          <label class="check">
            <input
              type="checkbox"
              checked={address.caption}
              onChange={(event) => go({ caption: event.currentTarget.checked })}
            />
            <span>Caption every image that is opened</span>
          </label>
          <Each runs={of("caption")} address={address} />
        </section>
      )}
      {others.map((run) => (
        <p key={run.key} class="faint">
          {run.folder} is a run of {run.task}, which has nothing to ask.
        </p>
      ))}
    </>
  );
}

function Each({ runs, address }: { runs: readonly RunInfo[]; address: Address }) {
  return (
    <div class="runs">
      {runs.map((run) => (
        <Run key={run.key} run={run} address={address} />
      ))}
    </div>
  );
}

function Run({ run, address }: { run: RunInfo; address: Address }) {
  const url = runCall(run, address);
  const { value, problem, loading } = useAnswer<Answered | Captioned | Entailed>(url);
  useSaid(value ? summary(value) : "");
  return (
    <div class="run" aria-label={`Run ${run.folder}`} role="group">
      <h3 title={run.folder}>
        <span class="key">{run.key}</span> {run.folder}
      </h3>
      {problem && url && <Trouble problem={problem} url={url} />}
      {loading && <p class="faint">…</p>}
      {value && "answers" in value && <Answers value={value} />}
      {value && "chances" in value && <Chances value={value} />}
      {value && "words" in value && <Words run={run} value={value} address={address} />}
      {value && !("words" in value) && value.attention && (
        <Glimpses run={run} count={value.attention.length} address={address} />
      )}
    </div>
  );
}

function summary(value: Answered | Captioned | Entailed): string {
  if ("answers" in value) return `Answer: ${value.answers[0]?.answer ?? "none"}`;
  if ("words" in value) return `Caption: ${value.words.map(({ word }) => word).join(" ")}`;
  return Object.entries(value.chances)
    .map(([name, share]) => `${name} ${short(share)}`)
    .join(", ");
}

function Answers({ value }: { value: Answered }) {
  return (
    <ol class="chances">
      {value.answers.map(({ answer, score }) => (
        <li key={answer}>
          <span>{answer}</span>
          <Bar share={score} text={score.toFixed(2)} />
        </li>
      ))}
    </ol>
  );
}

function Chances({ value }: { value: Entailed }) {
  return (
    <ul class="chances">
      {Object.entries(value.chances).map(([name, share]) => (
        <li key={name}>
          <span>{name}</span>
          <Bar share={share} text={share.toFixed(2)} />
        </li>
      ))}
    </ul>
  );
}

/** A caption; each word shows what the model attended to as it wrote it. */
function Words({ run, value, address }: { run: RunInfo; value: Captioned; address: Address }) {
  return (
    <p class="words">
      {value.words.map(({ word, attention }, k) => {
        const show = attentionOf(run, k);
        if (!attention) return <span key={k}>{word} </span>;
        return (
          <To key={k} address={address} change={{ show }} class={address.show === show ? "on" : ""}>
            {word}
          </To>
        );
      })}
    </p>
  );
}

function Glimpses({ run, count, address }: { run: RunInfo; count: number; address: Address }) {
  return (
    <p class="glimpses">
      <span class="faint">Attention</span>
      {Array.from({ length: count }, (_, k) => {
        const show = attentionOf(run, k);
        return (
          <To key={k} address={address} change={{ show }} class={address.show === show ? "on" : ""}>
            {count === 1 ? "show" : `glimpse ${k + 1}`}
          </To>
        );
      })}
    </p>
  );
}
