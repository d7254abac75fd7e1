"""What the people who write rules have: an explainer and tests, over the very code that serves.

Law: nothing here decides. A tool builds the parts by ``assembly``, asks them, and shows the answer.
"""
