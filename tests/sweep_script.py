"""Run the sweep of `test_sweep.py` in a process of its own, to be killed.

Arguments: the store, then the number of steps.
"""

import sys

import sweep_cases


def main():
    sweep_cases.run(store=sys.argv[1], steps=int(sys.argv[2]), progress=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt as stop:
        print(stop)
        sys.exit(130)
