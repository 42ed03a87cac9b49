"""The sample stage of a run alone; see launch/audit.py for all of them."""

from launch import main

if __name__ == '__main__':
  main.start(['sample'])
