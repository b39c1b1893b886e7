"""The app's words, in the languages that it speaks; the browser's language chooses."""

ENGLISH = {
    "title": "labkit",
    "subtitle": "The whole recipe behind a chat model, made and looked at on one laptop.",
    "attention": "Attention",
    "run": "Run",
    "stage": "Checkpoint",
    "text": "Text",
    "look": "Look",
    "look_hint": "What does each token look at while the model reads? Colour is how much a head takes from where.",
    "find_heads": "Find the heads",
    "find_heads_hint": "Heads by what they do: how much of their attention goes to the token before; in a random text "
    "that is repeated, to what followed last time; from “it”, and from where the answer names it, to the right one "
    "more than to the wrong. The last column is cause, not colour: how much log-odds (nats) of the right answer over "
    "the wrong are lost without the head.",
    "patching": "Patch one text into another",
    "patching_hint": "Two prompts of equal token length that call for different answers. The second is read with one "
    "vector of the first patched in: where that brings the first answer back is what makes the difference.",
    "first_text": "First prompt",
    "second_text": "Second prompt",
    "answer_begins": "The answer begins with",
    "patch": "Patch",
    "decoding": "Decoding",
    "decoding_hint": "The same prompt under several strategies, which see the same random numbers: where the texts "
    "part, it is the strategy that differs. Take examples, or type your own, as `temperature=0.9 top-k=20`.",
    "how_many": "Strategies",
    "strategy": "Strategy",
    "examples": "Take an example",
    "more": "Strategy syntax, and more settings",
    "strategies_hint": "A strategy is a line: what it is (`greedy`, `beam`, `contrastive`, `best`, `speculative`; "
    "nothing for sampling), then NAME=VALUE.\n\n"
    "- Filters, which work in the order in which they stand: `temperature` `top-k` `top-p` `min-p` `typical` `epsilon` "
    "`repetition` `presence` `frequency` `no-repeat`, and `ban=dog,key` or `allow=#17,#18` for words that are one "
    "token and tokens by number.\n"
    "- `beam` takes `beams` `length-penalty` `ending` (settled, full, never) `groups` `diversity`; `contrastive` takes "
    "`k` `alpha`; `best` draws `n` answers, of which the run's reward model chooses; `speculative` lets the draft "
    "guess `ahead`.\n"
    "- At the checkpoint `pretrain` the prompt is a beginning that is continued, at all others a message.",
    "stop_texts": "Texts at which generation stops, one a line",
    "draft": "Draft model, for speculative",
    "scores": "Scores over many seeds",
    "scores_hint": "Means over so many texts, with 95 % intervals. Of a TinyWorld question, the oracle knows what is "
    "right; of any other prompt, only TinyWorld's English is judged. Nats per token: nearer to 0 is likelier. "
    "Repetition and self-BLEU: lower is more varied. Gold to grammatical: from 0 to 1, higher is better.",
    "seeds": "Seeds",
    "measure": "Measure",
    "seed": "Seed",
    "new_tokens": "New tokens",
    "prompt": "Prompt",
    "compare": "Compare",
    "stop": "Stop",
    "preferences": "Preferences",
    "preferences_hint": "Two answers to one prompt; nobody says whose. Choose with the arrow keys, t, b, s; u undoes.",
    "first_source": "One of them",
    "second_source": "The other",
    "own_prompt": "Your own prompt (empty: a task of the world)",
    "annotator": "Your name",
    "new_pair": "New pair",
    "left": "Left",
    "right": "Right",
    "vote_left": "← Left is better",
    "vote_right": "Right is better →",
    "vote_tie": "Tie (t)",
    "vote_both_bad": "Both bad (b)",
    "vote_skip": "Skip (s)",
    "vote_undo": "Undo (u)",
    "export": "Export the votes",
    "runs": "Runs",
    "other_run": "Beside it",
    "go_on": "Go on",
    "train_on_votes": "Train DPO on the votes",
    "stage_of": "Stage",
    "curve": "Curve",
    "card": "All measures",
    "side_by_side": "Side by side with the other",
    "new_run": "A new run",
    "name": "Name",
    "preset_or_run": "Preset, or a run to build on",
    "stages_to_make": "Stages to make (none: all)",
    "log": "What its process said",
    "message": "Message",
    "write_report": "Its report as a page",
    "more_settings": "More settings, as on the command line",
    "begin": "Begin",
    "no_runs": "There is no run yet. Make one in a terminal: labkit run --preset smoke",
}
CHINESE = {
    "title": "labkit",
    "subtitle": "在一台笔记本电脑上制作并观察聊天模型的完整流程。",
    "attention": "注意力",
    "run": "运行",
    "stage": "检查点",
    "text": "文本",
    "look": "查看",
    "look_hint": "模型阅读时，每个词元在看哪里？颜色表示权重：一个注意力头从何处取了多少。",
    "find_heads": "寻找注意力头",
    "find_heads_hint": "按作用排列的注意力头：看向前一个词元的比例；在重复的随机文本中看向上次之后的词元；"
    "从代词、以及从回答处，看向正确者比看向错误者多多少。"
    "最后一列是因果而不是颜色：去掉该头后，正确回答对错误回答的对数几率损失多少纳特。",
    "patching": "激活修补：把一个提示的向量换入另一个",
    "patching_hint": "两个词元数相同、答案不同的提示。"
    "读第二个时，把第一个的一个向量放到同一位置：若答案随之恢复，差别就在那里。",
    "first_text": "第一个提示",
    "second_text": "第二个提示",
    "answer_begins": "回答的开头",
    "patch": "修补",
    "decoding": "解码",
    "decoding_hint": "同一个提示，多种策略，相同的随机数：文本从哪里分开，哪里就是策略的差别。"
    "可以选择，也可以自己输入，如 `temperature=0.9 top-k=20`。",
    "how_many": "策略数量",
    "strategy": "策略",
    "examples": "选择一个例子",
    "more": "策略语法与更多设置",
    "strategies_hint": "策略是一行文字："
    "先写种类（`greedy`、`beam`、`contrastive`、`best`、`speculative`；采样则不写），再写 NAME=VALUE。\n\n"
    "- 过滤器按书写顺序起作用：`temperature` `top-k` `top-p` `min-p` `typical` `epsilon` `repetition` `presence` "
    "`frequency` `no-repeat`；`ban=dog,key` 或 `allow=#17,#18` 指定单个词元。\n"
    "- `beam` 可用 `beams` `length-penalty` `ending`（settled、full、never）`groups` `diversity`；"
    "`contrastive` 可用 `k` `alpha`；`best` 写出 `n` 个回答，由奖励模型挑选；"
    "`speculative` 让草稿模型先猜 `ahead` 个。\n"
    "- 在检查点 `pretrain`，提示是要续写的开头；在其他检查点，它是一条消息。",
    "stop_texts": "遇到即停止的文本，每行一个",
    "draft": "草稿模型（用于 speculative）",
    "scores": "多个种子的得分",
    "scores_hint": "多篇文本的均值与 95 % 区间。世界中的任务由神谕判断对错；其他提示只判断语法。"
    "每词元纳特越接近 0 越可能；重复与 self-BLEU 越低越多样；gold 到 grammatical 为 0 到 1，越高越好。",
    "seeds": "种子数",
    "measure": "测量",
    "seed": "随机种子",
    "new_tokens": "新词元数",
    "prompt": "提示",
    "compare": "比较",
    "stop": "停止",
    "preferences": "偏好",
    "preferences_hint": "同一提示的两个回答，来源不公开。用方向键、t、b、s 投票；u 撤销。",
    "first_source": "其中之一",
    "second_source": "另一个",
    "own_prompt": "自己的提示（留空则用世界中的任务）",
    "annotator": "你的名字",
    "new_pair": "新的一对",
    "left": "左",
    "right": "右",
    "vote_left": "← 左边更好",
    "vote_right": "右边更好 →",
    "vote_tie": "平局 (t)",
    "vote_both_bad": "都不好 (b)",
    "vote_skip": "跳过 (s)",
    "vote_undo": "撤销 (u)",
    "export": "导出投票",
    "runs": "运行",
    "other_run": "对照",
    "go_on": "继续",
    "train_on_votes": "用投票训练 DPO",
    "stage_of": "阶段",
    "curve": "曲线",
    "card": "全部指标",
    "side_by_side": "与另一个对照",
    "new_run": "新的运行",
    "name": "名称",
    "preset_or_run": "预设，或作为起点的运行",
    "stages_to_make": "要制作的阶段（空为全部）",
    "log": "进程的输出",
    "message": "消息",
    "write_report": "生成报告页面",
    "more_settings": "更多设置（同命令行）",
    "begin": "开始",
    "no_runs": "还没有任何运行。请在终端中执行：labkit run --preset smoke",
}
TRANSLATIONS = {"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE}
