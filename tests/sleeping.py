"""Run by test_workers.py: python -m tests.sleeping SECONDS"""

import sys
import time

if __name__ == "__main__":
    time.sleep(float(sys.argv[1]))
