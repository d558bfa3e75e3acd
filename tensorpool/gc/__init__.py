"""The epoch GC: the process that deletes epoch directories once they are provably dead.

It creates nothing but its report, follows no symlink, and deletes nothing that it cannot
prove dead from the registry and the directories (design §2, §4.13, §4.15).
"""
