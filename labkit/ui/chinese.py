"""What labkit says, in Chinese: the names of metrics, curves and states, which stand under their English text, and the
messages of `labkit.ui.chinese_messages`. What is in neither is shown as it is, in English, and said to be so.
"""

from __future__ import annotations

import re

from labkit.stages import STAGES
from labkit.ui.chinese_messages import MESSAGES
from labkit.ui.chinese_methods import ABOUT
from labkit.ui.chinese_settings import SETTINGS

NAMES = {
    # table heads and states
    "stage": "阶段", "state": "状态", "steps": "步数", "time": "时间", "metric": "指标", "difference": "差值",
    "beyond chance": "超出偶然", "within chance": "在偶然范围内", "better": "更好", "worse": "更差",
    "model": "模型", "votes": "票数", "win rate": "胜率", "recipe": "配方", "user": "用户", "assistant": "助手",
    "system": "系统", "percentage points": "个百分点",
    "Running": "运行中", "Evaluating": "评估中", "Finished": "已完成", "Stopped": "已停止", "Failed": "失败",
    "Unreadable": "无法读取", "run": "运行", "stages finished": "已完成的阶段",
    "comes with labkit": "随 labkit 附带", "last change": "最近变化", "failed to start": "启动失败",
    "Failed to start": "启动失败",
    "Starting": "启动中", "Failed to start, see log": "启动失败，见日志", "Not requested": "不在本次范围",
    "{} left": "剩余 {}", "votes: {}": "{} 票",
    "unreadable": "无法读取",
    # metrics
    "validation loss before this stage": "本阶段之前的验证损失",
    "loss on held-out preferences before this stage": "本阶段之前留出偏好数据上的损失",
    "loss on held-out preferences": "留出偏好数据上的损失",
    "loss on held-out answers before this stage": "本阶段之前留出回答上的损失",
    "loss on held-out answers": "留出回答上的损失",
    "accuracy of the labels": "标签准确率",
    "share of the more frequent label": "较多标签所占比例",
    "answers evaluated": "评估的回答数",
    "correlation with the ratings": "与评分的相关系数",
    "squared error of the rating": "评分的平方误差",
    "variance of the ratings": "评分的方差",
    "log-probability of the good answers": "好回答的对数概率",
    "log-probability of the bad answers": "差回答的对数概率",
    "loss on held-out pairs before this stage": "本阶段之前留出偏好对上的损失",
    "validation loss": "验证损失",
    "loss on held-out pairs": "留出偏好对上的损失",
    "bits per byte": "每字节比特数",
    "nats per character": "每字符纳特数",
    "loss with mismatched questions": "问题错配时的损失",
    "tokens evaluated": "评估的词元数",
    "grammatical sentences": "合语法的句子",
    "possible events": "可能发生的事件",
    "new stories": "全新的故事",
    "stories sampled": "采样的故事数",
    "sentences in these stories": "这些故事的句子数",
    "accuracy": "准确率",
    "standard error of the accuracy": "准确率的标准误",
    "questions asked": "提问数",
    "questions left out": "跳过的问题数",
    "accuracy without the story": "不读故事的准确率",
    "gold score": "真实得分",
    "unsupported answers": "无依据的回答",
    "preference accuracy": "偏好准确率",
    "preference accuracy of the reward model": "奖励模型的偏好准确率",
    "verdicts that depend on the order": "随顺序改变的判断",
    "loss on held-out sentences before this stage": "本阶段之前留出句子上的损失",
    "loss on held-out sentences": "留出句子上的损失",
    "accuracy of the sentence labels": "句子标签准确率",
    "share of the more frequent sentence label": "较多的句子标签所占比例",
    "correct sentences above wrong ones": "正确句子得分高于错误句子",
    "sentences evaluated": "评估的句子数",
    "answers without a wrong sentence": "没有错误句子的回答",
    "prompts with an answer without a wrong sentence": "至少有一个回答没有错误句子的提示",
    "chosen at random": "随机选取", "chosen by the product over sentences": "按各句之积选取",
    "chosen by the worst sentence": "按最差的句子选取", "chosen by the last sentence": "按最后一句选取",
    "chosen by the outcome reward model": "按结果奖励模型选取",
    "preference accuracy by length": "仅凭长度的偏好准确率",
    "log-probability of the chosen answers": "被选回答的对数概率",
    "log-probability of the rejected answers": "被拒回答的对数概率",
    "calibration error": "校准误差",
    "noise ceiling": "噪声上限",
    "accuracy against gold": "以真实得分为准的准确率",
    "accuracy against gold, by length": "仅凭长度、以真实得分为准的准确率",
    "pairs evaluated": "评估的偏好对数",
    "examples left out": "跳过的样本数",
    "examples truncated": "截断的样本数",
    "held-out examples left out": "跳过的留出样本数",
    "held-out examples truncated": "截断的留出样本数",
    "right answers": "正确的回答",
    "polite answers": "礼貌的回答",
    "gain in gold score": "真实得分的提高",
    "standard error of the gain": "提高的标准误",
    "win rate against the initial model": "对初始模型的胜率",
    "win rate, lower bound": "胜率下界",
    "win rate, upper bound": "胜率上界",
    "gain of more fine-tuning instead": "对照组（继续微调）的提高",
    "right answers of more fine-tuning instead": "对照组（继续微调）的正确回答",
    "prompts evaluated": "评估的提示数",
    "prompts left out": "跳过的提示数",
    "satisfaction": "满意度",
    "gain in satisfaction": "满意度的提高",
    "standard error of the gain in satisfaction": "满意度提高的标准误",
    "questions answered right": "答对的问题",
    "questions asked again": "重新提出的问题数",
    "answers of a conversation": "每个对话的回答数",
    "conversations that no longer fitted": "放不下而中止的对话",
    "users": "用户数",
    "reward": "奖励",
    "reward of training": "训练所用的奖励",
    "win rate by reward": "按奖励计算的胜率",
    "seconds": "秒数",
    "tokens": "词元数",
    "FLOPs": "浮点运算数",
    "MFU": "MFU（算力利用率）",
    "peak memory": "内存峰值",
    # units
    "nats per token": "纳特/词元",
    "nats per pair": "纳特/偏好对",
    "nats per sentence": "纳特/句",
    "nats per choice, or squared error": "纳特/选择，或平方误差",
    "squared rating": "平方评分",
    "nats per answer": "纳特/回答",
    "squared nats per pair": "平方纳特/偏好对",
    "bits": "比特",
    "nats": "纳特",
    # curves and their axes
    "Loss": "损失", "Reward": "奖励", "Reward and gold score": "奖励与真实得分",
    "Learning rate": "学习率", "Preference accuracy": "偏好准确率", "Entropy": "熵",
    "Implicit reward of the two answers": "两个回答的隐式奖励",
    "Log-probability of the two answers": "两个回答的对数概率",
    "Answers on the side of their label": "与标签一致的回答",
    "KL from the reference model": "与参考模型的 KL 散度", "Clip fraction": "裁剪比例",
    "Prompts whose answers are all rewarded alike": "所有回答奖励相同的提示", "fraction of the prompts": "占提示的比例",
    "Questions answered right": "答对的问题", "fraction of the questions": "占问题的比例",
    "Answers of a conversation": "每个对话的回答", "answers per conversation": "回答数/对话",
    "Conversations that no longer fitted": "放不下而中止的对话", "fraction of the conversations": "占对话的比例",
    "KL (nats per conversation)": "KL（纳特/对话）",
    "Users whose conversations are all rewarded alike": "所有对话奖励相同的用户",
    "fraction of the users": "占用户的比例",
    "Length of the answers of a conversation": "每个对话的回答长度",
    "right": "答对", "repeats": "重问", "turns": "回答数", "truncated": "放不下而中止",
    "Reward of the answers that are kept": "保留的回答的奖励", "kept reward": "保留的回答的奖励",
    "frac reward zero std": "奖励全同的提示比例",
    "Explained variance of the value model": "价值模型的解释方差", "Length of the answers": "回答长度",
    "Accuracy of the sentence labels": "句子标签准确率", "fraction of the sentences": "占句子的比例",
    "step": "步", "loss": "损失", "learning rate": "学习率", "fraction of the batch": "占批次的比例",
    "implicit reward (nats)": "隐式奖励（纳特）",
    "log-probability (nats per answer)": "对数概率（纳特/回答）", "KL (nats per answer)": "KL（纳特/回答）",
    "fraction of the tokens": "占词元的比例", "fraction of the returns' variance": "占回报方差的比例",
    "training": "训练", "validation": "验证", "gold": "真实得分",
    "chosen reward": "被选回答的奖励", "rejected reward": "被拒回答的奖励",
    "chosen logprob": "被选回答的对数概率", "rejected logprob": "被拒回答的对数概率", "kl": "KL", "entropy": "熵",
    "Divergence from the teacher": "与教师的散度", "On-policy batches": "同策略批次",
    "forward kl": "正向 KL", "reverse kl": "反向 KL", "on policy": "同策略",
    "forward KL from the teacher": "相对教师的正向 KL", "reverse KL from the teacher": "相对教师的反向 KL",
    "reverse KL on own answers": "学生自己的回答上的反向 KL",
    "gold score of the teacher": "教师的真实得分", "right answers of the teacher": "教师的正确回答",
    "clip fraction": "裁剪比例", "explained variance": "解释方差", "length": "长度",
}  # fmt: skip

UNTRANSLATED = "英文原文：{}"


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("(.*?)".join(re.escape(part) for part in template.split("{}")), re.DOTALL)


def _spellings(template: str) -> list[str]:
    """A template, and how it reads behind a flag, without the name of the config: see `labkit.runs.flags`."""
    return [template, *(match[1] for match in [re.match(r"[A-Za-z]+Config: (.*)", template)] if match)]


ABOUT_STAGES = {STAGES[kind].about: chinese for kind, chinese in ABOUT.items()}
SAID = ABOUT_STAGES | MESSAGES | SETTINGS
PATTERNS = [(_pattern(name), chinese) for said, chinese in SAID.items() for name in _spellings(said)]


def label_in_chinese(text: str) -> str:
    """A label in Chinese, its unit or part too: "validation loss (nats per token)"; as it is where it is not known."""
    if text in NAMES:
        return NAMES[text]
    parts = re.fullmatch(r"(.+?)(?: \((.+)\)|: (.+)|, (before this stage))", text)
    if parts is None or parts[1] not in NAMES:
        return text
    if parts[4]:
        return f"{NAMES[parts[1]]}（本阶段之前）"
    return f"{NAMES[parts[1]]}（{label_in_chinese(parts[2])}）" if parts[2] else f"{NAMES[parts[1]]}：{parts[3]}"


def translate_message_to_chinese(text: str) -> str:
    """A message in Chinese; where its template is not known, in English, and said to be so."""
    for pattern, chinese in PATTERNS:
        found = pattern.fullmatch(text)
        if found:
            return chinese.format(*(_inner(part) for part in found.groups()))
    of_flag = re.fullmatch(r"(--[\w.-]+: )(.+)", text, re.DOTALL)
    if of_flag and (inner := _inner(of_flag[2])) != of_flag[2]:
        return of_flag[1] + inner
    return UNTRANSLATED.format(text)


def _inner(part: str) -> str:
    """What was put into a message, which may be a message itself."""
    found = translate_message_to_chinese(part)
    return part if found == UNTRANSLATED.format(part) else found
