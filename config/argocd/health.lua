-- Health of a BaseModel, an ExpertVector or an AdaptivePolicy, for Argo CD: the
-- same that kstatus makes of their conditions, and Suspended where a training is
-- held. Argo CD runs it without Lua's string library.
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "The operator has not seen this generation yet"}
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end

local function holds(name)
  return conditions[name] ~= nil and conditions[name].status == "True"
end

local ready = conditions["Ready"] or {}
if holds("Stalled") then
  return {status = "Degraded", message = conditions["Stalled"].message}
elseif holds("Ready") then
  return {status = "Healthy", message = ready.message}
elseif ready.reason == "Suspended" then
  return {status = "Suspended", message = ready.message}
end
return {status = "Progressing", message = ready.message or "The operator has not said yet whether it is ready"}
