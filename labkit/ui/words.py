"""The app's words, in the languages that it speaks; the browser's language chooses."""

from labkit.evaluation.strategies import LEGEND

ENGLISH = {
    "title": "labkit",
    "subtitle": "The whole recipe behind a chat model, made and looked at on one laptop.",
    "attention": "Attention",
    "run": "Run",
    "stage": "Checkpoint",
    "text": "Text",
    "look": "Look",
    "look_hint": "From which tokens does each token take information while the model reads? The stronger the colour, "
    "the larger the share of its attention that a head gives to that token.",
    "find_heads": "Find the heads",
    "find_heads_hint": "Heads by what they do. Previous token: how much of the attention goes to the token before. "
    "Induction: in a random text that is repeated, how much goes to what followed the same token last time. From the "
    "pronoun, from the answer: how much more goes from “it”, or from the token before the answer, to the noun that is "
    "meant than to the other one. The last column measures the cause: how many nats of log-odds the right answer loses "
    "against the wrong one when the head is ablated.",
    "patching": "Patch one text into another",
    "patching_hint": "Two prompts with the same number of tokens and different answers. The model reads the second "
    "one, but one of its vectors is replaced by the vector in the same place of the first. If the model then gives the "
    "first prompt's answer, that vector holds what makes the difference.",
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
    "- `beam` takes `beams` `length-penalty` `early-stopping` (true, false, never) `groups` `diversity`; "
    "`contrastive` takes `k` `alpha`; `best` draws `n` answers, of which the run's reward model chooses; "
    "`speculative` lets the draft guess `ahead`.\n"
    "- At the checkpoint `pretrain` the prompt is a beginning that is continued (empty: the model begins by "
    "itself), at all others a message.",
    "stop_texts": "Texts at which generation stops, one a line",
    "draft": "Draft model, for speculative",
    "scores": "Scores over many seeds",
    "scores_hint": "Means over so many texts, with 95 % intervals. Of a TinyWorld question, the oracle knows what is "
    "right; of any other prompt, only TinyWorld's English is judged.\n\n"
    + "\n".join(f"- **{name}**: {meaning}" for name, meaning in LEGEND.items()),
    "seeds": "Seeds",
    "measure": "Measure",
    "seed": "Seed",
    "new_tokens": "New tokens",
    "prompt": "Prompt",
    "compare": "Compare",
    "stop": "Stop",
    "preferences": "Preferences",
    "preferences_hint": "Two answers to one prompt; which model wrote which is hidden, and the sides are shuffled. "
    "Vote with the buttons, or by keyboard while the answers have the focus: arrow keys, t, b, s; u undoes.",
    "first_source": "Model 1",
    "second_source": "Model 2",
    "temperature": "Temperature",
    "own_prompt": "Your own prompt (empty: a random TinyWorld question)",
    "annotator": "Your name",
    "new_pair": "New pair",
    "no_pair": "Press “New pair”: the question and two answers to it appear here. Then say which is better.",
    "no_vote": "After a vote, this says which model wrote which answer.",
    "any_name": "empty: anonymous",
    "standings_hint": "Counted are votes that compare two different models: left, right and tie (half a win each). "
    "Both bad, skip, and a model beside itself compare nothing.\n\n**Next:** the tab *Runs* trains DPO on the votes "
    "that prefer an answer.",
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
    "other_run": "Compare with",
    "go_on": "Resume",
    "train_on_votes": "Train DPO on the votes",
    "voted_run": "Model to train on the votes (in brackets: votes that prefer an answer)",
    "stage_of": "Stage",
    "curve": "Curve",
    "card": "All measures",
    "side_by_side": "Comparison",
    "new_run": "A new run",
    "name": "Name",
    "preset_or_run": "Preset, or a run to build on",
    "stages_to_make": "Stages to train (none: all)",
    "log": "Log (what its process printed)",
    "message": "Message",
    "write_report": "Open report",
    "more_settings": "More settings, as on the command line",
    "begin": "Begin",
    "other_language": "中文",
    "manage": "Rename or delete this run",
    "new_name_of_run": "New name",
    "rename": "Rename",
    "confirm_delete": "To delete, type the run's name",
    "delete": "Delete",
    "standings_of": "Who wins",
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
    "look_hint": "模型阅读时，每个词元从哪些词元取信息？颜色越浓，注意力头分给该词元的比例越大。",
    "find_heads": "寻找注意力头",
    "find_heads_hint": "按作用排列的注意力头：看向前一个词元的比例；在重复的随机文本中看向上次之后的词元；"
    "从代词、以及从回答处，看向正确者比看向错误者多多少。"
    "最后一列是因果而不是颜色：去掉该头后，正确回答对错误回答的对数几率损失多少纳特。",
    "patching": "激活修补：把一个提示的向量换入另一个",
    "patching_hint": "两个词元数相同、答案不同的提示。模型读第二个，但其中一个向量换成第一个在同一位置的向量。"
    "如果模型因此给出第一个提示的答案，造成差别的就是这个向量。",
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
    "- `beam` 可用 `beams` `length-penalty` `early-stopping`（true、false、never）`groups` `diversity`；"
    "`contrastive` 可用 `k` `alpha`；`best` 写出 `n` 个回答，由奖励模型挑选；"
    "`speculative` 让草稿模型先猜 `ahead` 个。\n"
    "- 在检查点 `pretrain`，提示是要续写的开头（留空则由模型自己开头）；在其他检查点，它是一条消息。",
    "stop_texts": "遇到即停止的文本，每行一个",
    "draft": "草稿模型（用于 speculative）",
    "scores": "多个种子的得分",
    "scores_hint": "多篇文本的均值与 95 % 区间。世界中的任务由神谕判断对错；其他提示只判断语法。\n\n"
    "- **每词元纳特**：模型给文本各词元的平均对数概率，越接近 0 越可能\n"
    "- **重复**：连续四个词元在文中已出现过的比例，越低重复越少\n"
    "- **词元数**：文本的词元数\n"
    "- **gold 得分**：神谕给回答的分数，0 到 1，越高越好\n"
    "- **正确**：做到了所要求之事的回答比例\n"
    "- **有依据**：所说内容中故事或世界事实支持的比例\n"
    "- **可能发生**：所述之事中可能发生的比例；自相矛盾的回答为 0\n"
    "- **合语法**：句子中属于 TinyWorld 英语的比例\n"
    "- **distinct-2**：所有文本中不同的相邻词元对所占比例，越高越多样\n"
    "- **self-BLEU**：其他文本对每篇文本的预示程度，0 到 1，越低越多样",
    "seeds": "种子数",
    "measure": "测量",
    "seed": "随机种子",
    "new_tokens": "新词元数",
    "prompt": "提示",
    "compare": "比较",
    "stop": "停止",
    "preferences": "偏好",
    "preferences_hint": "同一提示的两个回答，来源不公开，左右随机。"
    "用按钮投票；焦点在回答区时也可用方向键、t、b、s 投票，u 撤销。",
    "first_source": "模型 1",
    "second_source": "模型 2",
    "temperature": "温度",
    "own_prompt": "自己的提示（留空则随机取一个 TinyWorld 问题）",
    "annotator": "你的名字",
    "new_pair": "新的一对",
    "no_pair": "点击“新的一对”：这里会出现问题和两个回答，然后选择更好的一个。",
    "no_vote": "投票之后，这里会说明哪个回答出自哪个模型。",
    "any_name": "留空：anonymous",
    "standings_hint": "只计比较两个不同模型的投票：左、右、平局（各算半胜）。都不好、跳过、以及同一模型的两个回答不计。"
    "\n\n**下一步：** 在“运行”页用分出优劣的投票训练 DPO。",
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
    "voted_run": "用投票训练哪个模型（括号内为分出优劣的票数）",
    "stage_of": "阶段",
    "curve": "曲线",
    "card": "全部指标",
    "side_by_side": "对照表",
    "new_run": "新的运行",
    "name": "名称",
    "preset_or_run": "预设，或作为起点的运行",
    "stages_to_make": "要训练的阶段（空为全部）",
    "log": "日志（进程打印的原文）",
    "message": "消息",
    "write_report": "打开报告",
    "more_settings": "更多设置（同命令行）",
    "begin": "开始",
    "other_language": "English",
    "manage": "重命名或删除此运行",
    "new_name_of_run": "新名称",
    "rename": "重命名",
    "confirm_delete": "要删除，请输入运行的名称",
    "delete": "删除",
    "standings_of": "胜负",
    "no_runs": "还没有任何运行。请在终端中执行：labkit run --preset smoke",
}
TRANSLATIONS = {"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE}
