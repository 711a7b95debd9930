// Program: a module parsed, its variables placed in device memory, its kernels decoded.
#include <cstring>

#include "decode.h"

namespace softcuda {

Module::~Module() {
  for (uint64_t address : owned) memory->release(address);
}

namespace {

void place_variables(Module& m) {
  size_t constant_bytes = 0;
  for (auto& v : m.ast->variables) {
    if (v->space == ptx::Space::shared || v->external) continue;
    bool constant = v->space == ptx::Space::constant;
    size_t bytes = v->bytes();
    if (constant && (constant_bytes += bytes) > 65536) throw ptx::SyntaxError{v->line, "more than 64 KiB of .const variables"};
    uint64_t address = m.memory->allocate(std::max<size_t>(bytes, 1), constant ? Use::constant : Use::module);
    if (!address) throw ptx::SyntaxError{v->line, "no memory for \"" + v->name + "\" of " + std::to_string(bytes) + " bytes"};
    m.owned.push_back(address);
    m.globals[v->name] = {address, bytes};
    // A variable without an initial value is zero.
    auto* to = reinterpret_cast<uint8_t*>(address);
    memset(to, 0, bytes);
    if (!v->init.empty()) memcpy(to, v->init.data(), std::min(bytes, v->init.size()));
    m.memory->mark(address, std::max<size_t>(bytes, 1));
  }
  for (auto& v : m.ast->variables)
    for (auto& p : v->patches) {
      auto it = m.globals.find(p.variable->name);
      if (it == m.globals.end()) throw ptx::SyntaxError{v->line, "initial value of \"" + v->name + "\" names \"" + p.variable->name + "\", which is nowhere"};
      uint64_t value = it->second.address + static_cast<uint64_t>(p.offset);
      memcpy(reinterpret_cast<void*>(m.globals[v->name].address + p.at), &value, 8);
    }
  for (auto& v : m.ast->variables)
    if (v->external && v->space != ptx::Space::shared && !m.globals.count(v->name))
      throw ptx::SyntaxError{v->line, "\"" + v->name + "\" is declared .extern and nothing defines it"};
}

std::string dotted(int v) { return std::to_string(v / 10) + "." + std::to_string(v % 10); }

}  // namespace

Program::Program(std::unique_ptr<Module> m) : module_(std::move(m)) {}
Program::~Program() = default;

std::unique_ptr<Program> Program::parse(std::string_view text, int device_sm, Memory& memory, std::string* error) {
  try {
    auto m = std::make_unique<Module>();
    m->memory = &memory;
    while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
    m->ast = ptx::parse(text);
    if (m->ast->version > kPtxVersion)
      throw ptx::SyntaxError{1, ".version " + dotted(m->ast->version) + " is newer than the driver's " + dotted(kPtxVersion)};
    if (m->ast->target > device_sm)
      throw ptx::SyntaxError{1, ".target sm_" + std::to_string(m->ast->target) + " is newer than the device, sm_" + std::to_string(device_sm)};
    place_variables(*m);
    size_t constants = 0;
    for (auto& v : m->ast->variables)
      if (v->space == ptx::Space::constant) constants += v->bytes();
    for (auto& f : m->ast->functions) {
      if (!f->entry || !f->defined) continue;
      auto code = std::make_unique<Code>();
      code->info.name = f->name;
      code->info.const_bytes = constants;
      code->info.required_sm = m->ast->target;
      code->info.ptx_version = m->ast->version;
      if (f->max_threads) code->info.max_threads = std::min(1024u, f->max_threads);
      for (int k = 0; k < 3; k++) code->info.required_block[k] = f->required_block[k];
      Decoder(*m->ast, *m, *code).kernel(*f);
      m->kernels[f->name] = std::move(code);
    }
    return std::unique_ptr<Program>(new Program(std::move(m)));
  } catch (const ptx::SyntaxError& e) {
    if (error) *error = "PTX line " + std::to_string(e.line) + ": " + e.text;
  } catch (const std::bad_alloc&) {
    if (error) *error = "no memory to decode the PTX";
  }
  return nullptr;
}

const KernelInfo* Program::kernel(const std::string& name) const {
  auto it = module_->kernels.find(name);
  return it == module_->kernels.end() ? nullptr : &it->second->info;
}

std::vector<std::string> Program::kernels() const {
  std::vector<std::string> all;
  for (auto& [name, code] : module_->kernels) all.push_back(name);
  return all;
}

bool Program::global(const std::string& name, uint64_t* address, size_t* bytes) const {
  auto it = module_->globals.find(name);
  if (it == module_->globals.end()) return false;
  if (address) *address = it->second.address;
  if (bytes) *bytes = it->second.bytes;
  return true;
}

}  // namespace softcuda
