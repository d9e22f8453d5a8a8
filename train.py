"""Train a network: python train.py --cfg derain.yaml"""

from restore_diff.commands.train import main

if __name__ == "__main__":  # data workers may import this file
    raise SystemExit(main())
