// A viewer in a notebook, as an ES module for anywidget: viewers.py puts the name of the element in the place of ELEMENT.
// A question waits as long as the kernel is busy, and is asked again when its answer was lost.
const PATIENCE = 1500; // milliseconds until it is said that an answer is waited for
const LOST = 5000; // until a kernel that has nothing to do is asked again

export default {
  render({ model, el }) {
    const view = document.createElement("ELEMENT"), waiting = new Map(); // number -> {question, resolve, since, sent}
    let last = 0, clock = null;
    const send = (one) => {
      last += 1;
      one.sent = Date.now();
      waiting.set(last, one);
      model.send({ id: last, question: one.question });
    };
    const again = (id, one) => { waiting.delete(id); send(one); };

    // What keeps the answers, as far as this notebook's front end tells: a kernel that is busy answers when it is done.
    const state = () => {
      const manager = model.widget_manager, now = Date.now();
      const oldest = Math.min(...[...waiting.values()].map((one) => one.since));
      if (!waiting.size || now - oldest < PATIENCE) return "";
      if (!manager || !("kernel" in manager)) return view.waiting.unknown;
      const kernel = manager.kernel;
      const gone = !kernel || ["dead", "terminating"].includes(kernel.status) || kernel.connectionStatus === "disconnected";
      if (gone) return view.waiting.gone;
      if (kernel.status !== "idle") return view.waiting.busy;
      for (const [id, one] of [...waiting]) if (now - one.sent > LOST) again(id, one);
      return now - oldest > 2 * LOST ? view.waiting.forgotten : view.waiting.busy;
    };
    const tell = () => {
      view.notice = state();
      if (waiting.size && !clock) clock = setInterval(tell, 500);
      if (!waiting.size && clock) { clearInterval(clock); clock = null; }
    };
    view.ask = (question) => new Promise((resolve) => { send({ question, resolve, since: Date.now() }); tell(); });
    const hear = ({ id, answer }) => {
      const asked = waiting.get(id);
      if (asked) { waiting.delete(id); asked.resolve(answer); }
      for (const [earlier, one] of [...waiting]) if (earlier < id) again(earlier, one); // lost: answers come in order
      tell();
    };
    model.on("msg:custom", hear);
    const show = () => { view.data = model.get("data"); };
    show();
    model.on("change:data", show);
    el.append(view);
    return () => { clearInterval(clock); model.off("msg:custom", hear); model.off("change:data", show); };
  },
};
