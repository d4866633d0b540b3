"""Images and masks: reading, dataset folders, the check, random views, synthetic streets."""
