"""The notebooks' exercises: a question, how to answer it, a reference solution, and what wrong answers reveal.

from labkit.course import check
check("07.3", answer)  # right, or what is wrong, in words; check("07.3") says how to answer

exercises.py    Exercise and Mistake: what an exercise is
checkers.py     Value, Choice and Function: how an answer is compared with the reference solution
compare.py      two values compared, and the kinds of mistakes that are recognised by themselves
checking.py     `check`, which a notebook calls
registry.py     finds the exercises: notebook_07.py holds those of notebook 07
progress.py     what was answered, in one file beside the notebooks' runs
classroom.py    the progress of many students as a table
"""

from labkit.course.checkers import Choice, Function, Value
from labkit.course.checking import check
from labkit.course.exercises import Exercise, Mistake

__all__ = ["Choice", "Exercise", "Function", "Mistake", "Value", "check"]
