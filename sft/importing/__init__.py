"""Configurations of axolotl, LLaMA-Factory, torchtune and TRL, as recipes."""
