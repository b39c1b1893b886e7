"""The app's words, in the languages that it speaks; the browser's language chooses."""

from labkit.evaluation.strategies import HEADS, LEGEND

ENGLISH = {
    "title": "labkit",
    "subtitle": "The whole recipe behind a chat model, trained and inspected on one laptop.",
    "attention": "Attention",
    "run": "Run",
    "stage": "Stage",
    "text": "Text",
    "look": "Show attention",
    "look_hint": "From which tokens does each token take information? The stronger the colour, the larger the "
    "attention weight that the head gives to that token.",
    "find_heads": "Find heads by what they do",
    "find_heads_hint": "Scores for each head. *Previous token*: its mean attention weight on the preceding token. "
    "*Induction*: in a repeated random sequence, its weight on the token that followed the current "
    "one before. *From the pronoun*, *from the answer*: the weight from “it”, or from the token "
    "before the answer, on the noun that is meant, minus the weight on the other noun. The last "
    "column is causal, not an attention weight: by how many nats (units of the natural logarithm) "
    "the log-odds of the right answer over the wrong one fall when the head is ablated.",
    "patching": "Activation patching",
    "patching_hint": "Two prompts with the same number of tokens and different answers. The model runs on the second "
    "one, with the residual-stream vector of one layer and one token replaced by that of the first. If it then gives "
    "the first prompt's answer, that vector carries the information that makes the difference.",
    "first_text": "First prompt",
    "second_text": "Second prompt",
    "answer_begins": "The answer starts with",
    "patch": "Patch",
    "decoding": "Decoding",
    "decoding_hint": "The same prompt under several strategies, which use the same random numbers: if the texts "
    "diverge, the strategy is the cause. Choose an example, or type your own, as `temperature=0.9 top-k=20`.",
    "how_many": "Number of strategies",
    "strategy": "Strategy",
    "examples": "Choose an example",
    "more": "Strategy syntax, and more settings",
    "strategies_hint": "A strategy is a line: its type (`greedy`, `beam`, `contrastive`, `best`, `speculative`; omit "
    "it for sampling), then settings as NAME=VALUE.\n\n"
    "- Filters are applied in the order given: `temperature` `top-k` `top-p` `min-p` `typical` `epsilon` `repetition` "
    "`presence` `frequency` `no-repeat`; `ban=dog,key` removes tokens and `allow=#17,#18` removes all others, each "
    "named as a single-token word or as `#` and its token id.\n"
    "- `beam` takes `beams` `length-penalty` `early-stopping` (true, false, never) `groups` `diversity`; "
    "`contrastive` takes `k` `alpha`; `best` samples `n` answers and picks the one with the highest reward; "
    "`speculative` has the draft model propose `ahead` tokens at a time.\n"
    "- For the stage `pretrain` the prompt is a text to continue (empty: the model starts one); for every other stage "
    "it is a chat message.",
    "stop_texts": "Stop texts (generation ends at them), one per line",
    "draft": "Draft model, for speculative decoding",
    "scores": "Scores over many samples",
    "scores_hint": "Means over the samples, with 95 % confidence intervals. For TinyWorld questions the true answer is "
    "known; for any other prompt, only grammar and possible events are checked.\n\n"
    + "\n".join(f"- **{HEADS.get(name, name)}**: {meaning}" for name, meaning in LEGEND.items()),
    "seeds": "Number of samples",
    "measure": "Compute the scores",
    "seed": "Seed",
    "new_tokens": "New tokens",
    "prompt": "Prompt",
    "compare": "Compare",
    "stop": "Stop",
    "preferences": "Preferences",
    "preferences_hint": "Two answers to one prompt; which model wrote which is hidden, and the order is random. "
    "Vote with the buttons, or with the keyboard while the answers have the focus: arrow keys, t (tie), b (both bad), "
    "s (skip), u (undo).",
    "first_source": "Model 1",
    "second_source": "Model 2",
    "temperature": "Temperature",
    "own_prompt": "Your own prompt (empty: a random TinyWorld question)",
    "annotator": "Your name",
    "new_pair": "New pair",
    "no_pair": "Press “New pair”: the question and two answers to it appear here. Then say which is better.",
    "no_vote": "After you vote, this shows which model wrote which answer.",
    "any_name": "empty: anonymous",
    "standings_hint": "Only votes between two different models count; a tie is half a win for each. “Both bad”, “Skip” "
    "and pairs from one model are not counted.\n\n**Next:** in the tab *Runs*, train DPO on the votes that prefer an "
    "answer.",
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
    "voted_run": "Run whose model to train on the votes (in brackets: number of votes that prefer an answer)",
    "stage_of": "Stage",
    "curve": "Curve",
    "card": "All metrics",
    "side_by_side": "Comparison",
    "new_run": "A new run",
    "name": "Name",
    "preset_or_run": "Preset, or an existing run to start from",
    "stages_to_make": "Stages to train (none chosen: all)",
    "log": "Log",
    "message": "Message",
    "write_report": "Open report",
    "more_settings": "More settings, as command-line flags",
    "method": "Method to add (none: the stages above)",
    "method_after": "After which stage (none: the usual one)",
    "method_about": "What the method does",
    "command": "The same in a terminal (its errors too)",
    "begin": "Start",
    "other_language": "中文",
    "manage": "Rename or delete this run",
    "new_name_of_run": "New name",
    "rename": "Rename",
    "confirm_delete": "To delete, type the run's name",
    "delete": "Delete",
    "standings_of": "Win rates",
    "no_runs": "There is no run yet. Train one in a terminal: labkit run --preset smoke",
}
CHINESE = {
    "title": "labkit",
    "subtitle": "在一台笔记本电脑上训练并观察聊天模型的完整流程。",
    "attention": "注意力",
    "run": "运行",
    "stage": "阶段",
    "text": "文本",
    "look": "显示注意力",
    "look_hint": "每个词元从哪些词元获取信息？颜色越深，注意力头分给该词元的权重越大。",
    "find_heads": "按功能查找注意力头",
    "find_heads_hint": "每个注意力头的得分。*前一个词元*：对前一个词元的平均注意力权重。"
    "*归纳*：在重复的随机序列中，对当前词元上一次出现之后的那个词元的权重。"
    "*从代词*、*从回答*：从“it”或从回答之前的词元出发，对所指名词的权重减去对另一个名词的权重。"
    "最后一列是因果效应，而不是注意力权重：消融该头后，正确回答相对于错误回答的对数几率下降多少纳特（nat，自然对数单位）。",
    "patching": "激活修补",
    "patching_hint": "两个词元数相同、答案不同的提示。模型处理第二个提示，但其中某一层、某一词元的残差流向量"
    "换成第一个提示在同一位置的向量。如果模型因此给出第一个提示的答案，造成差别的信息就在这个向量里。",
    "first_text": "第一个提示",
    "second_text": "第二个提示",
    "answer_begins": "回答的开头",
    "patch": "修补",
    "decoding": "解码",
    "decoding_hint": "同一个提示用多种策略生成，随机数相同：如果文本出现分歧，原因就是策略不同。"
    "可以选择例子，也可以自己输入，如 `temperature=0.9 top-k=20`。",
    "how_many": "策略数量",
    "strategy": "策略",
    "examples": "选择一个例子",
    "more": "策略语法与更多设置",
    "strategies_hint": "策略是一行文字："
    "先写种类（`greedy`、`beam`、`contrastive`、`best`、`speculative`；采样则不写），再写设置 NAME=VALUE。\n\n"
    "- 过滤器按书写顺序起作用：`temperature` `top-k` `top-p` `min-p` `typical` `epsilon` `repetition` `presence` "
    "`frequency` `no-repeat`；`ban=dog,key` 去除词元，`allow=#17,#18` 去除其他所有词元，"
    "词元写作只有一个词元的词，或 `#` 加词元编号。\n"
    "- `beam` 可用 `beams` `length-penalty` `early-stopping`（true、false、never）`groups` `diversity`；"
    "`contrastive` 可用 `k` `alpha`；`best` 采样 `n` 个回答，取奖励最高的一个；"
    "`speculative` 让草稿模型每次先提出 `ahead` 个词元。\n"
    "- 在阶段 `pretrain`，提示是要续写的文本（留空则由模型自己开头）；在其他阶段，它是一条聊天消息。",
    "stop_texts": "停止文本（生成到此为止），每行一个",
    "draft": "草稿模型（用于推测解码）",
    "scores": "多个样本的得分",
    "scores_hint": "各样本的均值与 95 % 置信区间。TinyWorld 问题的正确答案是已知的；"
    "其他提示只检查语法和事件是否可能发生。\n\n"
    "- **对数概率**：文本各词元在模型下的平均对数概率，单位纳特（nat，自然对数单位），越接近 0 越可能\n"
    "- **重复**：四元组（连续四个词元）中前文已出现过的比例，越低重复越少\n"
    "- **词元数**：文本的词元数\n"
    "- **真实得分**：回答在运行的模拟标注者偏好下的真实奖励，由 TinyWorld 的判定程序（oracle）计算，0 到 1，越高越好\n"
    "- **正确**：正确回答的比例；要求写故事时，指是否满足全部要求\n"
    "- **有依据**：回答的陈述中，由故事或 TinyWorld 事实支持的比例\n"
    "- **可能发生**：所述事件中可能发生的比例；自相矛盾的回答为 0\n"
    "- **合语法**：能由 TinyWorld 语法解析的句子比例\n"
    "- **distinct-2**：不同的二元组数除以全部二元组数，越高越多样\n"
    "- **self-BLEU**：每篇文本与其他文本的相似度（BLEU），0 到 1，越低越多样",
    "seeds": "样本数",
    "measure": "计算得分",
    "seed": "随机种子",
    "new_tokens": "新词元数",
    "prompt": "提示",
    "compare": "比较",
    "stop": "停止",
    "preferences": "偏好",
    "preferences_hint": "同一提示的两个回答，不显示出自哪个模型，左右随机。"
    "用按钮投票；焦点在回答区时也可用键盘：方向键、t（平局）、b（都不好）、s（跳过）、u（撤销）。",
    "first_source": "模型 1",
    "second_source": "模型 2",
    "temperature": "温度",
    "own_prompt": "自己的提示（留空则随机取一个 TinyWorld 问题）",
    "annotator": "您的名字",
    "new_pair": "新的一对",
    "no_pair": "点击“新的一对”：这里会出现问题和两个回答，然后选择更好的一个。",
    "no_vote": "投票之后，这里会说明哪个回答出自哪个模型。",
    "any_name": "留空：anonymous",
    "standings_hint": "只计两个不同模型之间的投票；平局算双方各半胜。“都不好”“跳过”以及同一模型的两个回答不计。"
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
    "other_run": "比较对象",
    "go_on": "继续训练",
    "train_on_votes": "用投票训练 DPO",
    "voted_run": "用投票训练哪个运行的模型（括号内为分出优劣的票数）",
    "stage_of": "阶段",
    "curve": "曲线",
    "card": "全部指标",
    "side_by_side": "比较",
    "new_run": "新的运行",
    "name": "名称",
    "preset_or_run": "预设，或作为起点的已有运行",
    "stages_to_make": "要训练的阶段（不选则为全部）",
    "log": "日志（英文原文）",
    "message": "消息",
    "write_report": "打开报告",
    "more_settings": "更多设置（写法同命令行参数）",
    "method": "要添加的方法（不选则只用上面的阶段）",
    "method_after": "接在哪个阶段之后（不选则为通常的阶段）",
    "method_about": "该方法的作用",
    "command": "终端中的等价命令（或其错误）",
    "begin": "开始",
    "other_language": "English",
    "manage": "重命名或删除此运行",
    "new_name_of_run": "新名称",
    "rename": "重命名",
    "confirm_delete": "要删除，请输入运行的名称",
    "delete": "删除",
    "standings_of": "胜率",
    "no_runs": "还没有任何运行。请在终端中执行：labkit run --preset smoke",
}
TRANSLATIONS = {"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE}
