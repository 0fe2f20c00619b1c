"""One trio service a file. Each has ``run(*, task_status)``; ``daemon.py`` starts them all."""
