"""The messages that a page can cause, in Chinese.

A message stands under its template, in which {} is whatever is put in; in the translation {0} is the first of these.
Of several templates that fit a message, the first counts.
"""

MESSAGES = {
    # what the doctor finds in a stage
    "step {}, warning: {}": "第 {0} 步，警告：{1}",
    "step {}: {}": "第 {0} 步：{1}",
    "The loss of the first step is 0, which is no error: the advantages of its answers add up to 0, and the policy is "
    "still the one that wrote them (every ratio is 1). The gradient is not 0 (its norm is {}). Watch the reward, not "
    "the loss.":
        "第一步的损失为 0，这不是错误：这一步回答的优势之和为 0，而策略仍是写出它们的策略（比率都是 1）。"
        "梯度不为 0（范数 {0}）。请看奖励，不要看损失。",
    "All answers of the last {} rollouts got the same reward, {}: nothing tells a good answer from a bad one. Change "
    "what judges them ({}) so that it tells answers of this policy apart, or raise {} where they are all alike.":
        "最近 {0} 次采样的所有回答奖励都是 {1}：无从区分好坏。请更换评判方式（{2}），使其能区分这个策略的回答；"
        "若回答彼此雷同，请加大 {3}。",
    "{} % of the prompts of the last {} rollouts had answers that were all rewarded alike. A group without variance "
    "has no advantage and teaches nothing. Raise {} or {}, or choose a reward with finer steps ({}).":
        "最近 {1} 次采样中，{0}% 的提示的所有回答奖励相同。没有方差的组没有优势，教不了任何东西。请加大 {2} 或 {3}，"
        "或选用分得更细的奖励（{4}）。",
    "The reward follows the length of the answers (rank correlation {} over the last {} rollouts), and they went from "
    "{} to {} tokens: the policy may learn length and nothing else. Change what judges them ({}), hold the policy "
    "closer ({}), or bound its answers ({}).":
        "奖励随回答长度变化（最近 {1} 次采样的秩相关为 {0}），而回答从 {2} 个词元变为 {3} 个：策略可能只学到了长度。"
        "请更换评判方式（{4}），让策略更贴近参考模型（{5}），或限制回答的长度（{6}）。",
    "The KL from the reference model is {} nats per answer and grows: the answers are no longer of the kind that the "
    "reward was made for, and a high one says little. Hold the policy closer ({}), or lower {}.":
        "与参考模型的 KL 为每个回答 {0} 纳特，且仍在增长：这些回答已不是奖励所针对的那一类，奖励再高也说明不了什么。"
        "请让策略更贴近参考模型（{1}），或减小 {2}。",
    "After {} rollouts the value model explains nothing of the returns: explained variance {}, where their mean alone "
    "has 0. Its advantages are noise. Raise {} or {}, or take more steps on each rollout ({}).":
        "{0} 次采样之后，价值模型仍完全不能解释回报：解释方差为 {1}，而仅用均值就是 0。由它得到的优势只是噪声。"
        "请加大 {2} 或 {3}，或在每次采样上多走几步（{4}）。",
    "The chosen answers become less likely together with the rejected ones: {} and {} nats per answer below the first "
    "steps. The probability goes to answers that nobody compared. Lower {} or {}, or change what holds the policy back "
    "({}).":
        "被选回答与被拒回答一起变得更不可能：每个回答比最初几步低 {0} 和 {1} 纳特。概率流向了没有人比较过的回答。"
        "请减小 {2} 或 {3}，或调整约束策略的设置（{4}）。",
    "The accuracy on the last {} batches is {}, but the loss on held-out pairs rose from {} to {}: the model learns "
    "its pairs by heart. Give it more pairs, lower {} or {}, or stop where the loss is lowest ({} shows it).":
        "最近 {0} 个批次的准确率为 {1}，但留出偏好对上的损失从 {2} 升到 {3}：模型在死记这些偏好对。请给出更多偏好对，"
        "减小 {4} 或 {5}，或在损失最低处停止（{6} 会显示它）。",
    "In {} of the last {} batches all answers had the same label: such a step makes every answer likelier, or every "
    "one less likely. Raise {}, or give good and bad answers in equal numbers.":
        "最近 {1} 个批次中有 {0} 个，所有回答的标签都相同：这样的一步使每个回答都更可能，或都更不可能。请加大 {2}，"
        "或给出数量相等的好回答与坏回答。",
    "{} % of the conversations of the last {} rollouts ended because their rows had no room for one more turn: what "
    "the users had still to ask counts as not answered. Raise {}, up to the model's context, or lower {}.":
        "最近 {1} 次采样中，{0}% 的对话因所在行放不下下一轮而中止：用户尚未问到的问题按未答计算。请加大 {2}"
        "（至多为模型的上下文），或减小 {3}。",
    "the reward model": "奖励模型",
    "The reward model {} gave {} for the answer {}. Its weights are damaged, or its training diverged: train it again "
    "(--again) at a lower learning rate.":
        "奖励模型 {0} 给回答 {2} 的分数是 {1}。它的权重已损坏，或训练发散：请以更小的学习率重新训练它（--again）。",
    "The process reward model {} gave a sentence a score that is no number. Its weights are damaged, or its training "
    "diverged: train it again (--again) at a lower learning rate.":
        "过程奖励模型 {0} 给一个句子的分数不是数。它的权重已损坏，或训练发散：请以更小的学习率重新训练它（--again）。",
    "ProcessRewardModeling: answers of {} tokens leave no room for a prompt: train.max_length is {}. Lower "
    "labelled.max_new_tokens, or raise train.max_length.":
        "ProcessRewardModeling：{0} 个词元的回答没有给提示留下空间：train.max_length 为 {1}。请减小 "
        "labelled.max_new_tokens，或加大 train.max_length。",
    "ProcessRewardModeling: the oracle can label sentences of answers to TinyWorld's own tasks only, and this run "
    "learns from files. Take prm out of the plan.":
        "ProcessRewardModeling：判定程序（oracle）只能标注对 TinyWorld 自己任务的回答，而本次运行用的是文件。"
        "请从计划中去掉 prm。",
    "StepLabelConfig: tasks must name a kind of task or more, as write or where.":
        "StepLabelConfig：tasks 须至少列出一种任务，如 write 或 where。",
    "{}: tasks chooses among TinyWorld's own tasks, and the prompts are those of a file. Leave it empty.":
        "{0}：tasks 只能在 TinyWorld 自己的任务中选择，而提示来自文件。请留空。",
    "{}: TinyWorld of size {} has no task {}; it has {}.": "{0}：大小为 {1} 的 TinyWorld 没有任务 {2}；有 {3}。",
    "The reward function {} gave {} for the answer {} to {}. A reward must be a finite number.":
        "奖励函数 {0} 给 {3} 的回答 {2} 的奖励是 {1}。奖励必须是有限数。",
    "The reward function {} failed on {}: {}": "奖励函数 {0} 在 {1} 上出错：{2}",
    # the lab, its runs and their processes
    "There is no run {} in {}.": "{1} 中没有名为 {0} 的运行。",
    "{} is not the name of a run.": "{0} 不是运行的名称。",
    "{} is not a valid name for a run: use letters, digits, '-', '_' and '.', at most 61 characters.":
        "{0} 不能作为运行的名称：只能用字母、数字、“-”“_”和“.”，最多 61 个。",
    "There is a run {} already. Choose another name, or resume that one.":
        "已有名为 {0} 的运行。请换一个名称，或继续那个运行。",
    "There is a run {} already. Choose another name.": "已有名为 {0} 的运行。请换一个名称。",
    "{} is running already. Stop it first, or choose another name.": "{0} 已在运行。请先停止，或换一个名称。",
    "{} runs are running: {}. Stop one of them, or wait.": "已有 {0} 个运行在进行：{1}。请停止其中一个，或稍候。",
    "{} is not a method; choose one of the list.": "{0} 不是方法；请从列表中选择。",
    "{} are not stages; the stages are {}.": "{0} 不是阶段；可选的阶段有 {1}。",
    "{} is not a stage of a run in {}. Only the command line can use it.":
        "{0} 不是 {1} 中某个运行的阶段。只能在命令行使用它。",
    "{} is Muon's learning rate; this stage trains by AdamW. Set {}.":
        "{0} 是 Muon 的学习率，而该阶段用 AdamW 训练。请设置 {1}。",
    "Choose the stages to train; {} takes what comes before them from {}.":
        "请选择要训练的阶段；{0} 会从 {1} 取得它们之前的阶段。",
    "A seed must be a whole number from 0 to {}, not {}.": "随机种子是 0 到 {0} 的整数，不能是 {1}。",
    "The settings cannot be read: {}.": "无法读取这些设置：{0}。",
    "{} is set by the fields above; remove it from “More settings”.":
        "{0} 已由上面的输入框指定，请从“更多设置”中去掉。",
    "{} {} is above this page's limit, {}. Use the command line.": "{0} {1} 超过了本页面的上限 {2}。请使用命令行。",
    "A model of {} parameters is above this page's limit, {}. Choose a smaller model.width, model.depth or "
    "tokenizer.vocabulary, or use the command line.":
        "{0} 个参数的模型超过了本页面的上限 {1}。请减小 model.width、model.depth 或 "
        "tokenizer.vocabulary，或使用命令行。",
    "{}: {} rows of {} tokens are above this page's limit, {} tokens. Lower {}.train.batch_size, or use the command "
    "line.":
        "{0}：{1} 行、每行 {2} 个词元，超过了本页面 {3} 个词元的上限。请减小 {4}.train.batch_size，"
        "或使用命令行。",
    "{}: a rollout of {} batches of {} rows of {} tokens is above this page's limit, {} tokens. Lower "
    "{}.train.batch_size, {}.train.gradient_accumulation_steps or {}.rollout_batches, or use the command line.":
        "{0}：一次采样 {1} 批、每批 {2} 行、每行 {3} 个词元，超过了本页面 {4} 个词元的上限。请减小 "
        "{5}.train.batch_size、{6}.train.gradient_accumulation_steps 或 {7}.rollout_batches，或使用命令行。",
    "{} annotated answers are above this page's limit, {}. Lower annotation.prompts, annotation.held_out or "
    "annotation.num_generations, or use the command line.":
        "{0} 个待标注的回答超过了本页面的上限 {1}。请减小 annotation.prompts、annotation.held_out 或 "
        "annotation.num_generations，或使用命令行。",
    "{} is not a setting; remove it. `labkit recipe` lists all settings.":
        "{0} 不是设置，请去掉。`labkit recipe` 列出全部设置。",
    "{} needs {} first. Train these stages too, or name a run to start from.":
        "{0} 之前需要 {1}。请同时训练这些阶段，或选择作为起点的运行。",
    "{} of {} would be a different model with a different {}.": "换用不同的 {2} 后，{1} 的 {0} 会是不同的模型。",
    "This recipe has no stage {}; it has {}{}.": "此配方没有阶段 {0}；它有 {1}{2}。",
    "There is no option {}. Did you mean {}?": "没有选项 {0}。您是否想写 {1}？",
    "There is no option {}. {} --help lists those that there are.": "没有选项 {0}。{1} --help 列出全部选项。",
    "No option takes {}. {} --help lists those that there are.": "没有选项可用 {0}。{1} --help 列出全部选项。",
    "The {} at step {}, so training stopped. {} Try a smaller learning rate.":
        "第 {1} 步时 {0}，训练已停止。{2}请减小学习率。",
    "The model keeps the weights before this step.": "模型保留这一步之前的权重。",
    "The weights of step {} are kept in {}.": "第 {0} 步的权重保存在 {1}。",
    "{} takes {} GB of memory; {} has {} GB.": "{0} 需要 {1} GB 内存；{2} 有 {3} GB。",
    "A model of {} parameters": "{0} 个参数的模型",
    "{} can be {}, not {}.": "{0} 可为 {1}，不能是 {2}。",
    "{} needs a value; one that begins with a dash stands behind =: {}=-1":
        "{0} 需要一个值；以短横线开头的值写在 = 之后：{1}=-1",
    "There is no file or folder {}.": "没有文件或文件夹 {0}。",
    "The folder {} contains no {} file.": "文件夹 {0} 中没有 {1} 文件。",
    "Recipe: {}.train.max_length is {} tokens, but the model's context is {}. Lower {}.train.max_length or raise "
    "model.context.":
        "配方：{0}.train.max_length 为 {1} 个词元，而模型的上下文为 {2}。请减小 {3}.train.max_length 或加大 "
        "model.context。",
    "ModelConfig: a width of {} cannot be split into {} heads; make width a multiple of heads, or set head_dim.":
        "宽度 {0} 不能分成 {1} 个头；请让宽度为头数的整数倍，或设置 head_dim。",
    "Rotary rotates pairs of dimensions, so head_dim (or width / heads) must be even, not {} (width {} and {} heads).":
        "旋转位置编码（Rotary）旋转成对的维度，因此头维度（head_dim，或宽度 / 头数）须为偶数，不能是 {0}"
        "（宽度 {1}，{2} 个头）。",
    "The text cannot give a vocabulary of {}: its BPE merges end at {}. Ask for at most {}, leave the size unset, or "
    "give more text.":
        "这些文本给不出 {0} 个词元的词表：BPE 合并最多得到 {1} 个。请最多要求 {2}，或不指定大小，或提供更多文本。",
    "{} is finished. To train a stage of it again, start a new run from it.":
        "{0} 已完成。若要重新训练其中一个阶段，请以它为起点开始新的运行。",
    "{} has no fine-tuned model yet that could be trained on votes. Choose another run.":
        "{0} 还没有可用投票训练的微调模型。请选择另一个运行。",
    "{} is trained on the votes that prefer an answer: {}. Too few votes: it will overfit. Collect {} or more before "
    "you trust its metrics.":
        "{0} 正用 {1} 张分出优劣的投票训练。票数太少，会过拟合。收集到 {2} 张以上再相信这些指标。",
    "{} is trained on the votes that prefer an answer: {}.": "{0} 正用 {1} 张分出优劣的投票训练。",
    "To delete {}, type its name. Nothing was deleted.": "要删除 {0}，请输入它的名称。什么都没有删除。",
    "{} is running. Stop it first.": "{0} 正在运行。请先停止。",
    "{} comes with labkit and cannot be changed. Start a new run from it.":
        "{0} 随 labkit 附带，不能改动。请以它为起点开始新的运行。",
    "{} cannot be written to, so {} was not changed.": "{0} 不可写入，因此 {1} 保持不变。",
    "{} could not be written: {}": "无法写入 {0}：{1}",
    "{} was asked to stop. It ends after its current step and can be resumed.":
        "已请求 {0} 停止。它会在当前这一步之后结束，可以继续。",
    "{} is being resumed. Its first step takes a moment.": "{0} 正在继续。第一步需要片刻。",
    "{} has started. Its progress is shown at the top of this tab.": "{0} 已开始。进展显示在本页上方。",
    "{} is now called {}.": "{0} 现在名为 {1}。",
    "{} is deleted.": "{0} 已删除。",
    "{} cannot be read: permission denied. Allow reading it: {}": "没有权限读取 {0}。请允许读取：{1}",
    "{} cannot be read: {}": "无法读取 {0}：{1}",
    "{} is not a recipe of labkit: {}": "{0} 不是 labkit 的配方：{1}",
    "{} has no stage {}; it has {}.": "{0} 没有阶段 {1}；它有 {2}。",
    "{} contains a reward model, which scores answers and generates no text.": "{0} 是奖励模型，只评分，不生成文本。",
    "{} has not finished {}. Resume the run first.": "{0} 尚未完成 {1}。请先继续该运行。",
    "{} has no report yet: no stage of it is finished.": "{0} 还没有报告：没有任何阶段完成。",
    "{} contains no report.json; finish its run first: labkit run --out {} --resume":
        "{0} 中没有 report.json；请先完成该运行：labkit run --out {1} --resume",
    "Its process ended early: {}": "进程提前结束：{0}",
    "{} was not started in this app: its log is where its command was run.":
        "{0} 不是在本应用中开始的：它的日志在执行命令的地方。",
    "{} is in use: another process (PID {}, since {}) is working on it. Wait until it has ended, or stop it.":
        "{0} 正被另一个进程（PID {1}，始于 {2}）使用。请等它结束，或将其停止。",
    "{} is outside of the folder that the app was started in, or hidden there. Copy it into that folder, or start the "
    "app with --any-file.":
        "{0} 不在启动应用的文件夹内，或在其中被隐藏。请把它复制到该文件夹，或用 --any-file 启动应用。",
    "Choose another run under “Compare with”.": "请在“比较对象”中选择另一个运行。",
    "{} is compared with itself. Choose another run.": "{0} 不能与自己比较。请选择另一个运行。",
    "{} cannot be compared yet: no stage of it is finished.": "{0} 还不能比较：没有任何阶段完成。",
    # preferences
    "Both models gave the same answer {} times. Give one a higher temperature, or choose another model.":
        "两边 {0} 次都给出相同的回答。请提高一边的温度，或换一个模型。",
    "TinyWorld's tasks are too long for the context of {}. Type a shorter prompt.":
        "{0} 的上下文放不下 TinyWorld 的任务。请输入更短的提示。",
    "{} was trained on real text, so there are no TinyWorld questions for it. Type a prompt.":
        "{0} 用真实文本训练，没有 TinyWorld 问题。请输入提示。",
    "No vote prefers one answer to another yet; there is nothing to train on.":
        "还没有任何投票偏好其中一个回答，没有可训练的数据。",
    "A vote needs a name: any name, as long as you always use the same one.":
        "投票需要名字：任何名字都可以，只要始终用同一个。",
    "The voter's name must be text, not {}. Type your name.": "投票者应为名字，不能是 {0}。请输入您的名字。",
    "A name can have at most {} characters.": "名字最多 {0} 个字符。",
    "A prompt can have at most {} characters, not {}.": "在这里输入的提示最多 {0} 个字符，不能是 {1} 个。",
    "The temperature must be a number from 0 to {}, not {}.": "温度是 0 到 {0} 的数，不能是 {1}。",
    "{} is not a valid vote; choose {}.": "{0} 不是选项；请选择 {1}。",
    "This pair was never shown. Ask for a new one.": "这一对从未展示过。请取一对新的。",
    "This pair was never shown, so it cannot be voted on. Ask for a new one.":
        "这一对从未展示过，不能投票。请取一对新的。",
    "{} has voted on this pair already. Undo that vote to change it.": "{0} 已对这一对投过票。撤销后才能更改。",
    "The votes in {} could not be reached: {}": "无法访问 {0} 中的投票：{1}",
    "This text has a broken character (a lone surrogate), which cannot be stored. Type it again.":
        "这段文本含有损坏的字符（孤立的代理项），无法保存。请重新输入。",
    "There is nothing to undo.": "没有可撤销的投票。",
    "Your last vote is undone.": "上一次投票已撤销。",
    "Votes by {}, of all kinds: {} · the last pair: ← {}   → {}": "{0} 的各类投票共 {1} 张 · 上一对：← {2}   → {3}",
    "Votes that prefer an answer: {} of {}. Ties, both bad and skips are left out.":
        "{1} 张投票中有 {0} 张分出优劣；平局、都不好和跳过不在其中。",
    "{} / {}, temperature {}": "{0} / {1}，温度 {2}",
    # reading, and choosing the next token
    "There is nothing to show: type a text.": "没有可显示的内容：请输入文本。",
    "The text has {} tokens; give 1 to {}.": "文本有 {0} 个词元；请给出 1 到 {1} 个。",
    "There is nothing to reply to: type a prompt.": "没有可回复的内容：请输入提示。",
    "{} has {} tokens and leaves no room for new tokens in a context of {}.":
        "{0} 有 {1} 个词元，{2} 个词元的上下文中没有生成新词元的空间。",
    "Strategy {}, {}: {}": "策略 {0}，{1}：{2}",
    "There is no strategy {}.{} There are {}.": "没有策略 {0}。{1} 可用的有 {2}。",
    " Did you mean {}?": "您是否想写 {0}？",
    "Temperature must be 0 (greedy) or at least {}, not {}.": "temperature 须为 0（贪心）或不小于 {0}，不能是 {1}。",
    "{}: {} must be {}, not {}.": "{0}：{1} 须{2}，不能是 {3}。",
    "at least {} and at most {}": "在 {0} 与 {1} 之间（含两端）",
    "above {} and at most {}": "大于 {0} 且不超过 {1}",
    "finite and at least {}": "为有限数且不小于 {0}",
    "finite and above {}": "为有限数且大于 {0}",
    "at least {}": "不小于 {0}",
    "above {}": "大于 {0}",
    "at most {}": "不超过 {0}",
    "a whole number": "为整数",
    "a number": "为数字",
    "The number of new tokens must be from 1 to {}, not {}.": "新词元数须在 1 到 {0} 之间，不能是 {1}。",
    "From 1 to {} strategies are compared, not {}.": "可比较 1 到 {0} 种策略，不能是 {1}。",
    "This link is to the model after {} of a run {}, not found here. Shown instead are the settings that the tab "
    "begins with.": "此链接指向运行 {1} 在阶段 {0} 之后的模型，这里没有找到。页面改为显示初始设置。",
    "The weights of {} have changed since this link was made: the texts may differ.":
        "{0} 的权重在此链接生成之后已改变：文本可能不同。",
    "This link is broken: no settings can be read from it. Shown instead are those that the tab begins with.":
        "此链接已损坏，读不出设置。页面改为显示初始设置。",
    "This link cannot be opened: {} Shown instead are the settings that the tab begins with.":
        "无法打开此链接：{0} 页面改为显示初始设置。",
    "Both texts give the same prediction, so there is no difference to explain.":
        "两段文本的预测相同，没有需要解释的差别。",
    # what pages and viewers ask
    "Choose a run and a stage.": "请选择运行和阶段。",
    "There is no checkpoint {} here; there are {}.": "这里没有检查点 {0}；可选的有 {1}。",
    "The prompt": "提示",
    "The first prompt": "第一个提示",
    "The second prompt": "第二个提示",
    "The answer's beginning": "回答的开头",
    "The number of strategies": "策略数量",
    "The number of new tokens": "新词元数",
    "The number of samples": "样本数",
    "The stop texts": "停止文本",
    "A stop text": "停止文本",
    "A strategy": "策略",
    "{} must be text, not {}.": "{0} 应为文本，不能是 {1}。",
    "{} has {} characters; the limit is {}.": "{0} 有 {1} 个字符；上限为 {2} 个。",
    "{} must be a whole number from {} to {}, not {}.": "{0} 须为 {1} 到 {2} 的整数，不能是 {3}。",
    "This is not a request about a text.": "这不是关于文本的请求。",
    "The attention of {} heads over {} tokens is {} values; a page shows at most {}. Use a text of at most {} "
    "tokens.": "{0} 个头在 {1} 个词元上的注意力共 {2} 个数；页面最多显示 {3} 个。请使用不超过 {4} 个词元的文本。",
    "The texts have {} and {} tokens; a vector is patched into the same position of the other text, so they must have "
    "the same number of tokens. Replace words by others with as many tokens.":
        "两段文本分别有 {0} 和 {1} 个词元；向量要替换到同一位置，因此词元数必须相同。请换用词元数相同的词。",
    "Strategy {} is missing: type one, as sample (the model as it is) or greedy.":
        "策略 {0} 为空：请输入一个，如 sample（模型原样）或 greedy。",
    "{}: {} needs a value, written {}=VALUE.": "{0}：{1} 需要一个值，写作 {2}=VALUE。",
    "{} needs a value, written {}=VALUE.": "{0} 需要一个值，写作 {1}=VALUE。",
    "{}: {} is given twice.": "{0}：{1} 出现了两次。",
    "All strategies together are {}; the limit is {}. Use fewer strategies, {} or new tokens.":
        "所有策略合计 {0}；上限为 {1}。请减少策略数、新词元数或 {2}。",
    "{} tokens to process": "{0} 个词元",
    "{} TFLOP; the limit is {} TFLOP": "{0} TFLOP；上限为 {1} TFLOP",
    "{} GB of key/value cache; the limit is {} GB": "KV 缓存 {0} GB；上限为 {1} GB",
    "The attention of a text of {} tokens takes {} GB; the limit is {} GB. Use a text of at most {} tokens.":
        "{0} 个词元的文本的注意力需要 {1} GB；上限为 {2} GB。请使用不超过 {3} 个词元的文本。",
    "Patching these texts takes {} forward passes of {} tokens, {} TFLOP; the limit is {} TFLOP. Use shorter texts, or "
    "texts that differ only near their end.":
        "修补这些文本需要 {0} 次前向计算、每次 {1} 个词元，共 {2} TFLOP；上限为 {3} TFLOP。"
        "请使用更短的文本，或只在结尾附近不同的文本。",
    "{}: unknown setting {}.{} The settings are {}.": "{0}：没有设置 {1}。{2}可用的设置有 {3}。",
    "{}: unknown setting {}. It has no settings.": "{0}：没有设置 {1}；它不能设置任何内容。",
    "{}: {} is not a single token but {} ({}); give each token by itself.":
        "{0}：{1} 不是单个词元，而是 {2} 个（{3}）；请逐个给出词元。",
    "{} leaves no token to sample{}. Remove it, weaken it, or put it before the filters that remove tokens.":
        "{0} 没有留下可采样的词元{1}。请移除它、放宽它，或把它放到去除词元的过滤器之前。",
    ", after {}": "（在 {0} 之后）",
    "contrastive: it takes no filters, because it chooses among the k most probable tokens itself.":
        "contrastive：不能使用过滤器，因为它自己在 k 个最可能的词元中选择。",
    "speculative: a smaller draft model is needed (on the command line, --draft RUN).":
        "speculative：需要较小的草稿模型（命令行用 --draft RUN）。",
    "{}: character {} is broken (a lone surrogate). Type it again.":
        "{0}：第 {1} 个字符已损坏（孤立的代理项）。请重新输入。",
    "a number is infinite": "有数字是无穷大",
    "there is a null character": "含有空字符",
    "{} beams cannot be split into {} groups of equal size.": "{0} 个束不能平分为 {1} 组。",
    "The model's logits are NaN or infinite: its weights are damaged, as when training diverged.":
        "模型的 logits 为 NaN 或无穷大：权重已损坏，例如训练曾发散。",
    "{} is empty; it needs at least one token.": "{0} 为空；至少需要一个词元。",
    "{} has a different tokenizer from {}: a draft model must have the same one.":
        "{0} 的分词器与 {1} 不同：草稿模型须使用相同的分词器。",
    "Speculative decoding cannot use filters that need the previous tokens.":
        "推测解码不能使用需要前文词元的过滤器。",
    "{}: there is no token {} in a vocabulary of {}.": "{0}：大小为 {2} 的词表中没有词元 {1}。",
    "This model cannot generate text: its attention is bidirectional.": "此模型不能生成文本：它的注意力是双向的。",
    "This model has no attention: its mixer is {}.": "此模型没有注意力：它的混合层是 {0}。",
    "TinyWorld of size {} has no stories with the pronoun it; size lab has them.":
        "大小为 {0} 的 TinyWorld 没有含代词 it 的故事；大小为 lab 的有。",
    "Finding heads needs a decoder-only attention model.": "查找注意力头需要仅解码器的注意力模型。",
    "Patching needs a decoder-only attention model.": "激活修补需要仅解码器的注意力模型。",
    "Distill: train.compile would recompile the objective for each answer length, which takes minutes; leave it off. "
    "compile_rollouts compiles the sampling of answers.":
        "Distill：train.compile 会为每种回答长度重新编译目标函数，需要数分钟；请不要开启。"
        "compile_rollouts 会编译回答的采样。",
    "Distill: loss_type nll learns the teacher's answers word by word, and nothing from the student's own or from the "
    "data: set seq_kd True and lmbda 0, or loss_type gjsd.":
        "Distill：loss_type nll 逐词学习教师的回答，不从学生自己的回答或数据中学习："
        "请设 seq_kd 为 True、lmbda 为 0，或用 loss_type gjsd。",
    "Distill: seq_kd is about batches that are not on-policy, and with lmbda 1 there are none. Lower lmbda, or leave "
    "seq_kd off.":
        "Distill：seq_kd 只涉及非同策略的批次，而 lmbda 为 1 时没有这样的批次。请减小 lmbda，或不要开启 seq_kd。",
    "{}: answers of {} tokens leave no room for a prompt: train.max_length is {}. Lower max_new_tokens, or raise "
    "train.max_length.":
        "{0}：{1} 个词元的回答没有给提示留下空间：train.max_length 为 {2}。请减小 max_new_tokens 或加大 "
        "train.max_length。",
    "{} answers cannot be split into {} per prompt on {} processes; make train.batch_size a multiple of {}.":
        "{0} 个回答不能在 {2} 个进程上按每个提示 {1} 个平分；请让 train.batch_size 为 {3} 的整数倍。",
    "MultiTurn: a user with {} questions reads at least as many answers, and max_turns is {}. Raise max_turns, or "
    "lower num_questions.":
        "MultiTurn：有 {0} 个问题的用户至少要读这么多个回答，而 max_turns 为 {1}。请加大 max_turns，或减小 "
        "num_questions。",
    "MultiTurn: the simulated users ask about TinyWorld's stories, and this model learns from other texts. Choose a "
    "stage that asks the prompts of a file, as grpo.":
        "MultiTurn：模拟用户问的是 TinyWorld 的故事，而此模型学习的是其他文本。请选用以文件中的提示提问的阶段，"
        "如 grpo。",
    "train.max_length leaves {} tokens for a prompt, too few for TinyWorld's. Raise train.max_length.":
        "train.max_length 只给提示留下 {0} 个词元，放不下 TinyWorld 的提示。请加大 train.max_length。",
    "This tokenizer's chat template writes earlier turns differently once others follow, so that a conversation cannot "
    "go on from the tokens of an answer.":
        "此分词器的聊天模板会在后面有其他轮次时改写之前的轮次，因此对话无法从回答的词元继续。",
    "There is no annotator {}; there are {}.": "没有标注者 {0}；可选的有 {1}。",
    "There is no token to show.": "没有可显示的词元。",
    "There is no token {} in this model's vocabulary of {}.": "此模型的词表（{1} 个）中没有词元 {0}。",
    "The text has {} tokens, and the model's context is {}.": "文本有 {0} 个词元，而模型的上下文为 {1}。",
    "Only beam search has a tree of beams, not {}.": "只有束搜索才有搜索树，{0} 没有。",
    "This tree has {} steps, more than can be drawn: use fewer beams or tokens.":
        "这棵树有 {0} 步，超出可绘制的范围：请减少束数或词元数。",
    "best: something must score the answers: a reward model, or for a TinyWorld task the oracle.":
        "best：需要有人评判回答：奖励模型，或 TinyWorld 任务的判定程序（oracle）。",
    "{} is {}. Use {}.": "{0}：{1}。请用{2}。",
    "{} texts at once; the limit is {}": "同时 {0} 篇文本；上限为 {1} 篇",
    "{} tokens to process; the limit is {}": "需处理 {0} 个词元；上限为 {1} 个",
    "a smaller {}=": "更小的 {0}=",
    "a smaller {}= or fewer tokens": "更小的 {0}= 或更少的词元",
    "fewer tokens": "更少的词元",
    # what lies on the disk: files, weights, runs
    "{} is a pipe or a device, not a regular file. Give another path, or move it away.":
        "{0} 是管道或设备，不是普通文件。请换一个路径，或将其移走。",
    "{} is a Git LFS pointer, not the file itself. Fetch the file with git lfs pull.":
        "{0} 是 Git LFS 指针，不是文件本身。请用 git lfs pull 取回文件。",
    "{} is damaged: it contains {}, not an object ({…}).": "{0} 已损坏：内容是 {1}，不是对象（{{…}}）。",
    "{} is damaged: it has no {}.": "{0} 已损坏：缺少 {1}。",
    "{} is damaged: its {} is {}, not {}.": "{0} 已损坏：其 {1} 是 {2}，不是 {3}。",
    "{}, line {}, is not JSON: the file is damaged.": "{0} 第 {1} 行不是 JSON：文件已损坏。",
    "{} is damaged, or of a different model than config.json describes: {}.":
        "{0} 已损坏，或属于与 config.json 所述不同的模型：{1}。",
    "{} is missing": "缺少 {0}",
    "it has no {}": "模型没有 {0}",
    "another file contains {} too": "另一个文件也含有 {0}",
    "{} lacks {} of the {} files that its {} names; the first is {}: the checkpoint is incomplete. Download or copy it "
    "again.": "{0} 缺少其 {3} 所列 {2} 个文件中的 {1} 个，首个是 {4}：检查点不完整。请重新下载或复制。",
    "{} has {} of sharded weights, {} the first, but no {}, which says what is in them. Copy it from where they came "
    "from; a run's stage can be trained again (labkit STAGE RUN --again).":
        "{0} 有分片的权重（{1}，首个是 {2}），但没有说明其内容的 {3}。请从权重的来源复制该文件；"
        "运行的阶段可以重新训练（labkit STAGE RUN --again）。",
    "{} has no weight_map from tensors to files.": "{0} 没有从张量到文件的 weight_map。",
    "{} names {}, which is not a safetensors file in the same folder.":
        "{0} 列出了 {1}，它不是同一文件夹中的 safetensors 文件。",
    "{} cannot be read, so its weights cannot be identified: {}": "无法读取 {0}，因此无法辨认其权重：{1}",
    "{} is not a JSON object ({…}), so its weights cannot be identified.":
        "{0} 不是 JSON 对象（{{…}}），因此无法辨认其权重。",
    "{} is finished, but its weights (model.safetensors) are gone. Copy them from where they are kept, or train the "
    "stage again: labkit {} {} --again":
        "{0} 已完成，但其权重（model.safetensors）不见了。请从备份复制，或重新训练该阶段：labkit {1} {2} --again",
    "{} has no model yet: its stage {} is not finished. Resume the run.":
        "{0} 还没有模型：它的阶段 {1} 尚未完成。请继续该运行。",
    "{} was trained with a different tokenizer from the run's, so its token ids mean other tokens. Train the stage "
    "again: labkit {} {} --again":
        "{0} 训练时的分词器与该运行的不同，因此词元编号的含义不同。请重新训练该阶段：labkit {1} {2} --again",
    "{} has no model yet. Resume the run: labkit run --out {} --resume":
        "{0} 还没有模型。请继续该运行：labkit run --out {1} --resume",
    "{}, which {} starts from, is missing: there is no {}. Put it back.":
        "缺少 {1} 的起点 {0}：没有 {2}。请将其放回。",
    "{} has changed since {} was started with it. Put the old weights back, or start a new run.":
        "{0} 在 {1} 以它为起点之后已改变。请放回原来的权重，或开始新的运行。",
    "{} has a different tokenizer from {}: {} and {} tokens, so that the same id means another token. Models of both "
    "cannot be used together: train them with one tokenizer.":
        "{0} 的分词器与 {1} 不同：各有 {2} 和 {3} 个词元，同一编号表示的词元不同。两者的模型不能一起使用："
        "请用同一个分词器训练它们。",
    "There is no tokenizer at {}.": "{0} 处没有分词器。",
    "{} is not a tokenizer file: {}": "{0} 不是分词器文件：{1}",
    "{} is not a report of labkit. {} Delete it; labkit run --out {} --resume writes it again.":
        "{0} 不是 labkit 的报告。{1}请删除它；labkit run --out {2} --resume 会重新写出。",
    "{} has changed since {} was started, so it cannot be resumed. Put the old file back, give its path ({}), or start "
    "a new run in another folder.":
        "{0} 在 {1} 开始之后已改变，因此不能继续。请放回原来的文件，或给出其路径（{2}），"
        "或在另一个文件夹开始新的运行。",
    "{}, which {} reads ({}), is missing: there is no {}. Put it back, or give its new path: {}":
        "缺少 {1} 读取的 {0}（{2}）：没有 {3}。请将其放回，或给出新路径：{4}",
}  # fmt: skip
