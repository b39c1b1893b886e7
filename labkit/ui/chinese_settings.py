"""What is said of settings: of plans, annotation and stages, in Chinese; templates as in `chinese_messages`."""

SETTINGS = {
    # plans and settings typed under “More settings”
    "A plan needs a stage: --plan pretrain,sft": "计划至少要有一个阶段：--plan pretrain,sft",
    "A plan has at most {} stages, not {}. Start another run from the last model.":
        "计划最多有 {0} 个阶段，不能是 {1} 个。请以最后的模型为起点开始另一个运行。",
    "{} is in the plan twice. Name the second one {}-2: --plan …,{}-2":
        "{0} 在计划中出现了两次。请把第二个命名为 {1}-2：--plan …,{2}-2",
    "{} needs a reward model: put reward before it in the plan.": "{0} 需要奖励模型：请在计划中把 reward 放在它之前。",
    "{} starts from random weights: it comes after no stage ({}@{}).":
        "{0} 从随机权重开始，不能接在任何阶段之后（{1}@{2}）。",
    "{} cannot come after {}: no earlier stage of that name produces a language model.":
        "{0} 不能接在 {1} 之后：之前没有产生语言模型的同名阶段。",
    "{} needs a teacher: set {}.teacher to a stage before it in the plan, or to a stage of another run (RUN/STAGE).":
        "{0} 需要教师：请把 {1}.teacher 设为计划中在它之前的阶段，或另一个运行的阶段（RUN/STAGE）。",
    "{} begins with {}, which is its teacher too: there is nothing to learn. Choose another {}.teacher, or another "
    "model to begin with ({}@STAGE).":
        "{0} 的起点 {1} 也是它的教师：没有可学的。请选择另一个 {2}.teacher，或另一个起点（{3}@STAGE）。",
    "{} cannot learn from {}: no earlier stage of that name produces a language model. Name one that stands before it "
    "in the plan, or one of another run (RUN/STAGE).":
        "{0} 不能向 {1} 学习：之前没有产生语言模型的同名阶段。请指定计划中在它之前的阶段，"
        "或另一个运行的阶段（RUN/STAGE）。",
    "{} needs a language model to start from: put a stage before it in the plan (pretrain,{}), or name one of another "
    "run ({}@RUN/STAGE).":
        "{0} 需要作为起点的语言模型：请在计划中把一个阶段放在它之前（pretrain,{1}），"
        "或指定另一个运行的阶段（{2}@RUN/STAGE）。",
    "There is no stage {}; the stages are {}, and names with a suffix, like dpo-strict.":
        "没有阶段 {0}；可选的有 {1}，以及带后缀的名称，如 dpo-strict。",
    "{}: {} cannot be paired, and this stage compares two answers to a prompt. {}; or train {} on them instead.":
        "{0}：{1} 无法配对，而该阶段比较同一提示的两个回答。{2}；或改用它们训练 {3}。",
    "{}: {} do not say which are good, and this stage learns from good and bad ones. {}; or train the reward model "
    "with --reward.loss Ratings on them instead.":
        "{0}：{1} 没有说明哪些是好的，而该阶段从好与差的回答中学习。{2}；或改用 --reward.loss Ratings 训练奖励模型。",
    "{}: the loss Ratings cannot learn from {}. {}, or choose another loss: BradleyTerry, AllPairs or PlackettLuce.":
        "{0}：损失 Ratings 不能从 {1} 学习。{2}，或选择其他损失：BradleyTerry、AllPairs 或 PlackettLuce。",
    "{}: all {} training answers have the label {}, and KTO learns from good and bad ones. Add {} ones{}.":
        "{0}：全部 {1} 个训练回答的标签都是 {2}，而 KTO 从好与差的回答中学习。请加入 {3} 的回答{4}。",
    "All {} training answers have the rating {}, so there is nothing to tell apart. Give answers with different "
    "ratings.":
        "全部 {0} 个训练回答的评分都是 {1}，无从区分。请给出评分不同的回答。",
    # alignment: annotators, judges, rollouts, simulated users
    "AnnotationConfig: position_bias and lazy_choice are of choices between answers, and with the format ratings each "
    "is rated by itself. Leave position_bias at 0 and lazy_choice at coin.":
        "position_bias 与 lazy_choice 针对回答之间的选择，而格式为 ratings 时每个回答单独评分。"
        "请保持 position_bias 为 0、lazy_choice 为 coin。",
    "AnnotationConfig: Principles choose between two answers, and the format is {}. Set it to pairs, or the judge to "
    "ProfileJudge.":
        "Principles 在两个回答之间选择，而格式是 {0}。请将格式设为 pairs，或将评判者设为 ProfileJudge。",
    "AnnotationConfig: other_annotators, position_bias, laziness and lazy_choice are of people, and the judge follows "
    "Principles, whose mistakes are its noise. Leave them at their defaults.":
        "other_annotators、position_bias、laziness 与 lazy_choice 描述人，而评判者遵循 Principles，"
        "其错误由 noise 表示。请保持这些设置的默认值。",
    "Principles: there is no group {}; the groups are {}.": "Principles：没有组 {0}；可选的组有 {1}。",
    "The principles of the group {} decide between no two of the answers to {} prompts, so there is nothing to learn "
    "from. Choose another annotation.judge.group, set annotation.judge.ask to in_order, or raise annotation.prompts or "
    "annotation.temperature.":
        "组 {0} 的原则不能在 {1} 个提示的任何两个回答之间作出选择，因此没有可学的内容。请另选 annotation.judge.group，"
        "将 annotation.judge.ask 设为 in_order，或加大 annotation.prompts 或 annotation.temperature。",
    "The annotator {} gives equal scores to all answers to {} prompts, so there is nothing to learn from. Fine-tune "
    "for longer, or raise annotation.prompts or annotation.temperature.":
        "标注者 {0} 给 {1} 个提示的所有回答相同的分数，因此没有可学的内容。请微调更久，"
        "或加大 annotation.prompts 或 annotation.temperature。",
    "{} cannot come after {}, whose model compares answers and writes none. Name the stage that it came after.":
        "{0} 不能接在 {1} 之后：它的模型比较回答，自己不写回答。请指定它之前的阶段。",
    "{}: max_kl ends the steps on a rollout early, and epochs is 1: there is nothing to end. Raise epochs, or set "
    "max_kl to None.":
        "{0}：max_kl 会提前结束在一次采样上的步，而 epochs 为 1，没有可结束的步。请加大 epochs，"
        "或将 max_kl 设为 None。",
    "{}: train.prefix_sharing reads a prompt once for all its answers, and this stage's batches hold no "
    "group of answers to a prompt. Leave it off.":
        "{0}：train.prefix_sharing 让同一提示的所有回答只读一次提示，而该阶段的批次不含同一提示的一组回答。请关闭它。",
    "A simulated user with {} questions reads at least as many answers: max_turns is {}. Raise it, or lower "
    "num_questions (at least 1).":
        "有 {0} 个问题的模拟用户至少读同样多的回答，而 max_turns 为 {1}。请加大它，或减小 num_questions（至少 1）。",
    "None of {} stories has {} questions. Lower num_questions.":
        "{0} 个故事中没有一个有 {1} 个问题。请减小 num_questions。",
    "--preferences need a fine-tuned model: give --instructions too.":
        "--preferences 需要经过微调的模型：请同时给出 --instructions。",
    "{} is not an option: {} stands without one, as in {}.": "{0} 不是选项：{1} 直接书写，如 {2}。",
    "{} is not typed with the ASCII signs - and =. Type {}": "{0} 没有使用 ASCII 符号 - 和 =。请输入 {1}",
    "{} needs {} too.": "{0} 还需要 {1}。",
    "ModelConfig: {} query heads cannot share {} key heads evenly; make heads a multiple of key_value_heads.":
        "{0} 个查询头不能平分 {1} 个键头；请让 heads 为 key_value_heads 的整数倍。",
    "ModelConfig: {} works inside attention, which {} does not have; set position=NoPosition().":
        "{0} 作用于注意力，而 {1} 没有注意力；请设置 position=NoPosition()。",
    "Recipe: the stages train a causal language model, which predicts each token from those before: leave model.causal "
    "True and model.encoder_depth 0.":
        "配方：各阶段训练因果语言模型，由前文预测每个词元：请保持 model.causal 为 True、model.encoder_depth 为 0。",
    # what a batch counts
    "train.batch_size counts {}.": "train.batch_size 的计数单位：{0}。",
    "pairs of answers": "回答对",
    "pairs of answers, each shown in both orders": "回答对，每对以两种顺序各出现一次",
    "pairs of answers; ranked lists with the loss AllPairs or PlackettLuce; single answers with Ratings":
        "回答对；损失为 AllPairs 或 PlackettLuce 时是排序列表，为 Ratings 时是单个回答",
    "single answers; a pair is two of them": "单个回答；一对算两个",
    "answers, num_generations to each prompt": "回答，每个提示 num_generations 个",
    "conversations, num_generations with each user": "对话，与每个用户 num_generations 个",
    "answers": "回答",
    "answers with labelled sentences": "句子有标注的回答",
    "{} must be {}, not {}.": "{0} 须{1}，不能是 {2}。",  # last, for it fits many
}  # fmt: skip
