"""``python -m deepseek_localcluster`` is the command ``deepseek-localcluster``."""

from deepseek_localcluster.cli import main

if __name__ == "__main__":
    main()
